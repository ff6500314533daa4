package blkbak_test

import (
	"cmp"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The drawing of the architecture: a new package, edge or dependency is a line
// here that somebody reviews. Packages are named by their directory, the module's
// root is ".".

const module = "github.com/blkbak/blkbak"

// levels holds the packages, lowest first. A package imports from the levels
// below its own, and from its own only what within says.
var levels = [][]string{
	{"."},
	{"internal/binread", "internal/atomicfile", "internal/blockdev"},
	{"cow", "zfsstream", "chunkstore", "freeze", "nbdserver", "carve"},
	{"internal/catalog", "internal/image", "internal/retention", "internal/lvm", "internal/zfs", "internal/notify"},
	{"internal/engine", "internal/check"},
	{"bench"},
	{"cmd/blkbak"},
}

// within allows edges inside one level. The six public leaves have none.
var within = map[string][]string{
	"internal/image": {"internal/catalog"},
}

// asides stand outside the levels: each imports nothing of ours, and only those
// named here import it (test files apart).
var asides = map[string][]string{
	"internal/run":     {"internal/lvm", "internal/zfs", "internal/notify", "cmd/blkbak"}, // cmd makes the runner
	"internal/testkit": {},                                                                // for test files only
	"test/vm":          {},                                                                // tests that run in a virtual machine
}

// denied are edges that the levels would allow. The engine reaches these through
// interfaces that it declares itself, and cmd/blkbak wires them up. It reaches
// the LVM tools so as well, and imports what describes volumes (docs/adr/0005).
var denied = map[string][]string{
	"internal/engine": {"freeze", "internal/zfs", "internal/notify"},
	"bench":           {"cmd/blkbak"},
}

// fences says which packages import a dependency, or a part of the standard
// library that is kept in one place. Test files may import all of these, and no
// other dependency. A new one needs a decision in docs/adr.
var fences = map[string][]string{
	"github.com/klauspost/compress":   {"chunkstore"},
	"github.com/zeebo/blake3":         {"chunkstore"},
	"github.com/pojntfx/go-nbd":       {"nbdserver"},
	"github.com/urfave/cli":           {"cmd/blkbak"},
	"github.com/dustin/go-humanize":   {"cmd/blkbak"},
	"github.com/rogpeppe/go-internal": {}, // testscript
	"golang.org/x/sys":                {"freeze", "internal/blockdev", "internal/atomicfile"},

	"os/exec":  {"internal/run", "internal/testkit"},
	"log":      {},
	"log/slog": {"internal/engine", "internal/run", "internal/notify", "nbdserver", "cmd/blkbak"},
	"testing":  {"bench", "internal/testkit"},
}

// starters start processes as os/exec does, or replace this one.
var starters = map[string]bool{
	"os.StartProcess": true, "syscall.StartProcess": true,
	"syscall.ForkExec": true, "syscall.Exec": true, "unix.Exec": true,
}

// sourceFile is one Go file of the module.
type sourceFile struct {
	name  string // "cow/header.go"
	dir   string // its package
	test  bool
	lines int
	ast   *ast.File
	fset  *token.FileSet
}

// imports returns what f imports, by path.
func (f *sourceFile) imports(t *testing.T) []string {
	t.Helper()
	var paths []string
	for _, spec := range f.ast.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatalf("%s: %v", f.name, err)
		}
		paths = append(paths, p)
	}
	return paths
}

func (f *sourceFile) line(n ast.Node) int { return f.fset.Position(n.Pos()).Line }

// sourceFiles parses every Go file of the module, whatever system it is for. It
// does so in this process, not in a `go list`: the test cache knows which files a
// test has read, but not what a process that it started has.
func sourceFiles(t *testing.T) []*sourceFile {
	t.Helper()
	fset := token.NewFileSet()
	var files []*sourceFile
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() {
			if name != "." && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") ||
				base == "testdata" || name == "build") {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(base) != ".go" {
			return nil
		}
		tree, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		slash := filepath.ToSlash(name)
		files = append(files, &sourceFile{
			name:  slash,
			dir:   path.Dir(slash),
			test:  strings.HasSuffix(base, "_test.go"),
			lines: fset.File(tree.Pos()).LineCount(),
			ast:   tree,
			fset:  fset,
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no Go files here")
	}
	return files
}

// levelOf returns the level of a package, or -1.
func levelOf(dir string) int {
	return slices.IndexFunc(levels, func(l []string) bool { return slices.Contains(l, dir) })
}

// inModule returns the directory of a package of this module.
func inModule(importPath string) (dir string, ok bool) {
	if importPath == module {
		return ".", true
	}
	return strings.CutPrefix(importPath, module+"/")
}

// fenceOf returns the entry of fences that importPath falls under.
func fenceOf(importPath string) (name string, ok bool) {
	for name := range fences {
		if importPath == name || strings.HasPrefix(importPath, name+"/") && strings.Contains(name, ".") {
			return name, true
		}
	}
	return "", false
}

// edgeProblem says what is wrong with package from importing package to of this
// module, or "".
func edgeProblem(from, to string, test bool) string {
	if strings.HasPrefix(to, "cmd/") && to != from {
		return "nobody imports a command"
	}
	if test {
		return ""
	}
	if importers, ok := asides[to]; ok {
		if !slices.Contains(importers, from) {
			return "only these import it: " + cmp.Or(strings.Join(importers, ", "), "test files")
		}
		return ""
	}
	if _, ok := asides[from]; ok {
		return from + " imports nothing of this module"
	}
	switch fl, tl := levelOf(from), levelOf(to); {
	case slices.Contains(denied[from], to):
		return "it is reached through an interface of " + from
	case to == "bench" && from != "cmd/blkbak":
		return "only cmd/blkbak imports bench"
	case tl > fl:
		return "it is on a higher level"
	case tl == fl && !slices.Contains(within[from], to):
		return "it is on the same level"
	}
	return ""
}

// fenceProblem says what is wrong with package from importing importPath from
// outside this module, or "".
func fenceProblem(from, importPath string, test bool) string {
	name, fenced := fenceOf(importPath)
	first, _, _ := strings.Cut(importPath, "/")
	switch {
	case !fenced && strings.Contains(first, "."):
		return "it is no known dependency"
	case !fenced || test || slices.Contains(fences[name], from):
		return ""
	}
	return "only these import it: " + cmp.Or(strings.Join(fences[name], ", "), "test files")
}

func TestPackagesAreInTheTable(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range sourceFiles(t) {
		_, aside := asides[f.dir]
		if !aside && levelOf(f.dir) < 0 && !seen[f.dir] {
			t.Errorf("package %s is on no level: give it one in arch_test.go", f.dir)
		}
		seen[f.dir] = true
	}
}

func TestImports(t *testing.T) {
	for _, f := range sourceFiles(t) {
		for _, p := range f.imports(t) {
			var problem string
			if to, ours := inModule(p); ours {
				problem = edgeProblem(f.dir, to, f.test)
			} else {
				problem = fenceProblem(f.dir, p, f.test)
			}
			if problem != "" {
				t.Errorf("%s imports %s: %s", f.name, p, problem)
			}
		}
	}
}

func TestOnlyRunStartsProcesses(t *testing.T) {
	for _, f := range sourceFiles(t) {
		if f.test || f.dir == "internal/run" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && starters[x.Name+"."+sel.Sel.Name] {
				t.Errorf("%s:%d: %s.%s: only internal/run starts processes", f.name, f.line(n), x.Name, sel.Sel.Name)
			}
			return true
		})
	}
}

// TestRules makes sure that the rules above refuse what they are there for.
func TestRules(t *testing.T) {
	for _, c := range []struct {
		from, to string
		test     bool
		ok       bool
	}{
		{"cow", ".", false, true},
		{"cow", "internal/binread", false, true},
		{"cow", "chunkstore", false, false},
		{"cow", "internal/run", false, false},
		{"internal/lvm", "internal/run", false, true},
		{"internal/run", ".", false, false},
		{"internal/image", "internal/catalog", false, true},
		{"internal/catalog", "internal/image", false, false},
		{"internal/engine", "chunkstore", false, true},
		{"internal/engine", "internal/lvm", false, true},
		{"internal/engine", "freeze", false, false},
		{"internal/engine", "internal/lvm", true, true},
		{"internal/engine", "internal/testkit", false, false},
		{"internal/engine", "internal/testkit", true, true},
		{"chunkstore", "cmd/blkbak", true, false},
		{"internal/check", "bench", false, false},
		{"cmd/blkbak", "bench", false, true},
	} {
		if got := edgeProblem(c.from, c.to, c.test); (got == "") != c.ok {
			t.Errorf("%s imports %s (test file %v): %q", c.from, c.to, c.test, got)
		}
	}
	for _, c := range []struct {
		from, path string
		test       bool
		ok         bool
	}{
		{"chunkstore", "github.com/klauspost/compress/zstd", false, true},
		{"carve", "github.com/klauspost/compress/zstd", false, false},
		{"carve", "github.com/klauspost/compress/zstd", true, true},
		{"carve", "github.com/stretchr/testify", true, false},
		{"carve", "os/exec", false, false},
		{"carve", "os/exec", true, true},
		{"carve", "log/slog", false, false},
		{"carve", "encoding/binary", false, true},
		{"carve", "testing/iotest", true, true},
	} {
		if got := fenceProblem(c.from, c.path, c.test); (got == "") != c.ok {
			t.Errorf("%s imports %s (test file %v): %q", c.from, c.path, c.test, got)
		}
	}
}
