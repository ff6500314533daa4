package blkbak_test

import (
	"go/ast"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	maxFileLines     = 400 // with a reason in longFiles: hardFileLines
	hardFileLines    = 700 // test files have this limit alone
	maxFunctionLines = 100
)

// longFiles are those over maxFileLines, each with its reason.
var longFiles = map[string]string{}

// vagueNames say nothing about what a package is for.
var vagueNames = []string{"util", "utils", "common", "helper", "helpers", "types", "misc", "shared"}

// TestPackageComments wants one package comment for each package, in its doc.go.
func TestPackageComments(t *testing.T) {
	comments := map[string]int{}
	for _, f := range sourceFiles(t) {
		comments[f.dir] += 0
		doc := f.ast.Doc.Text()
		if doc == "" {
			continue
		}
		comments[f.dir]++
		if path.Base(f.name) != "doc.go" {
			t.Errorf("%s: the package comment belongs into doc.go", f.name)
		}
		want := "Package " + f.ast.Name.Name + " "
		if f.ast.Name.Name == "main" {
			want = "Command " + path.Base(f.dir) + " "
		}
		if !strings.HasPrefix(doc, want) {
			t.Errorf("%s: the package comment must begin with %q", f.name, want)
		}
	}
	for dir, n := range comments {
		if n != 1 {
			t.Errorf("package %s has %d package comments, want 1", dir, n)
		}
	}
}

func TestPackageNames(t *testing.T) {
	for _, f := range sourceFiles(t) {
		if slices.Contains(vagueNames, path.Base(f.dir)) {
			t.Errorf("%s: a package is named for what it provides", f.name)
		}
	}
}

func TestSizes(t *testing.T) {
	long := map[string]bool{}
	for _, f := range sourceFiles(t) {
		if ast.IsGenerated(f.ast) {
			continue
		}
		if f.lines > hardFileLines {
			t.Errorf("%s has %d lines, more than %d", f.name, f.lines, hardFileLines)
		}
		if f.test {
			continue
		}
		if f.lines > maxFileLines {
			long[f.name] = true
			if longFiles[f.name] == "" {
				t.Errorf("%s has %d lines: split it, or give a reason in longFiles", f.name, f.lines)
			}
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := f.fset.Position(fn.End()).Line - f.line(fn) + 1; n > maxFunctionLines {
				t.Errorf("%s:%d: %s has %d lines, more than %d", f.name, f.line(fn), fn.Name.Name, n, maxFunctionLines)
			}
		}
	}
	for name := range longFiles {
		if !long[name] {
			t.Errorf("longFiles names %s, which is not long", name)
		}
	}
}

// TestPublicSignatures keeps types of internal packages out of what a public
// package exports: nobody outside could name them.
func TestPublicSignatures(t *testing.T) {
	for _, f := range sourceFiles(t) {
		if f.test || strings.HasPrefix(f.dir, "internal/") || strings.HasPrefix(f.dir, "cmd/") {
			continue
		}
		internal := internalNames(t, f)
		if len(internal) == 0 {
			continue
		}
		for _, d := range f.ast.Decls {
			for _, part := range exportedParts(d) {
				ast.Inspect(part, func(n ast.Node) bool {
					sel, ok := n.(*ast.SelectorExpr)
					if !ok {
						return true
					}
					if x, ok := sel.X.(*ast.Ident); ok && internal[x.Name] {
						t.Errorf("%s:%d: an exported signature mentions %s.%s", f.name, f.line(n), x.Name, sel.Sel.Name)
					}
					return true
				})
			}
		}
	}
}

// internalNames returns the names by which f knows internal packages.
func internalNames(t *testing.T, f *sourceFile) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, spec := range f.ast.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatalf("%s: %v", f.name, err)
		}
		switch {
		case !strings.HasPrefix(p, module+"/internal/"):
		case spec.Name != nil:
			names[spec.Name.Name] = true
		default:
			names[path.Base(p)] = true
		}
	}
	return names
}

// exportedParts returns the parts of a declaration that are seen from outside.
func exportedParts(d ast.Decl) []ast.Node {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && (d.Recv == nil || receiverExported(d.Recv)) {
			return []ast.Node{d.Type}
		}
	case *ast.GenDecl:
		var parts []ast.Node
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.ValueSpec:
				if s.Type != nil && slices.ContainsFunc(s.Names, (*ast.Ident).IsExported) {
					parts = append(parts, s.Type)
				}
			case *ast.TypeSpec:
				if !s.Name.IsExported() {
					continue
				}
				if s.TypeParams != nil {
					parts = append(parts, s.TypeParams)
				}
				parts = append(parts, exportedFields(s.Type)...)
			}
		}
		return parts
	}
	return nil
}

func receiverExported(recv *ast.FieldList) bool {
	typ := recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.IndexListExpr:
			typ = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return true
		}
	}
}

// exportedFields returns the types of a struct's or interface's exported fields
// and methods, embedded ones included, or the type itself.
func exportedFields(typ ast.Expr) []ast.Node {
	var list *ast.FieldList
	switch x := typ.(type) {
	case *ast.StructType:
		list = x.Fields
	case *ast.InterfaceType:
		list = x.Methods
	default:
		return []ast.Node{typ}
	}
	var parts []ast.Node
	for _, field := range list.List {
		if len(field.Names) == 0 || slices.ContainsFunc(field.Names, (*ast.Ident).IsExported) {
			parts = append(parts, field.Type)
		}
	}
	return parts
}

// TestSkips wants every skipped test to depend on a condition and to say why.
func TestSkips(t *testing.T) {
	for _, f := range sourceFiles(t) {
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			always := map[ast.Node]bool{} // calls that every run of fn makes
			for _, s := range fn.Body.List {
				if e, ok := s.(*ast.ExprStmt); ok {
					always[e.X] = true
				}
			}
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				sel, ok := call.Fun.(*ast.SelectorExpr)
				if !ok || !slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
					return true
				}
				if x, ok := sel.X.(*ast.Ident); !ok || !slices.Contains([]string{"t", "b", "f", "tb"}, x.Name) {
					return true
				}
				if len(call.Args) == 0 {
					t.Errorf("%s:%d: a skipped test says why", f.name, f.line(n))
				}
				if f.test && always[n] {
					t.Errorf("%s:%d: this test never runs", f.name, f.line(n))
				}
				return true
			})
		}
	}
}
