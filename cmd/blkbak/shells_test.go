package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// completedLines are completed by the shells' tests; "want" is what they offer, in any
// order, of the files sub/inner, sub2/ and file.img.
var completedLines = []struct{ line, want string }{
	{"blkbak compl", "completion"},
	{"blkbak cow ", "info dump hints"},
	{"blkbak --json vers", "version"},
	{"blkbak cow hints --for", "--format"},
	{"blkbak cow hints --format ", "rbd-json extents bitmap"},
	{"blkbak cow hints --format r", "rbd-json"},
	{"blkbak cow hints --format=b", "bitmap"},
	{"blkbak cow hints --format=", "rbd-json extents bitmap"},
	{"blkbak cow dump fi", "file.img"},
	{"blkbak cow dump sub/", "sub/inner"},
	{"blkbak -r x:y@z cow du", "dump"},
	{"blkbak version --repo su", "sub sub2"},
	{"blkbak version --repo=su", "sub sub2"},
	{"blkbak nosuch ", ""},
}

// completionDir has the files, and the program on the PATH as the tests run it.
func completionDir(t *testing.T, shell string) string {
	t.Helper()
	if _, err := exec.LookPath(shell); err != nil {
		t.Skipf("no %s here", shell)
	}
	dir := t.TempDir()
	for _, d := range []string{"sub", "sub2"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"sub/inner", "file.img"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func shellOutput(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%s: %v\n%s\n%s", args[0], err, out, stderr.String())
	}
	return string(out)
}

// lines are the command lines alone.
func lines() []string {
	var out []string
	for _, c := range completedLines {
		out = append(out, c.line)
	}
	return out
}

// checkCompleted compares what a shell offered, with ==== after each line's.
func checkCompleted(t *testing.T, out string) {
	t.Helper()
	got := strings.Split(out, "====\n")
	if len(got) != len(completedLines)+1 {
		t.Fatalf("%d answers to %d lines:\n%s", len(got)-1, len(completedLines), out)
	}
	for i, c := range completedLines {
		if !sameWords(got[i], c.want) {
			t.Errorf("%q: %q, want %q", c.line, strings.TrimSpace(got[i]), c.want)
		}
	}
}

func sameWords(a, b string) bool {
	x, y := strings.Fields(a), strings.Fields(b)
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}

// TestBashCompletion loads the script and calls its function as bash does, with
// the words that bash would make of the line.
func TestBashCompletion(t *testing.T) {
	dir := completionDir(t, "bash")
	const harness = `
source <(blkbak completion bash) || exit
complete -p blkbak >/dev/null || exit
compopt() { :; } # only allowed while bash completes
for line; do
COMP_LINE=$line COMP_POINT=${#line} COMP_WORDS=() COMP_CWORD=-1
rest=$line
while [[ $rest ]]; do # words end at blanks; runs of = : @ are words of their own
	rest=${rest#"${rest%%[! ]*}"}
	word=${rest%%[ =:@]*}
	[[ $word ]] || { word=${rest%%[^=:@]*}; }
	COMP_WORDS[++COMP_CWORD]=$word
	rest=${rest#"$word"}
done
[[ $line == *' ' ]] && [[ ${COMP_WORDS[COMP_CWORD]} ]] && COMP_WORDS[++COMP_CWORD]=
_blkbak blkbak "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}" ====
done`
	checkCompleted(t, shellOutput(t, dir, append([]string{"bash", "--norc", "-c", harness, "harness"}, lines()...)...))

	// With the cursor inside the line only what is before it counts.
	const inside = `source <(blkbak completion bash)
COMP_LINE='blkbak cow du file' COMP_POINT=13 COMP_WORDS=(blkbak cow du file) COMP_CWORD=2
_blkbak; printf '%s\n' "${COMPREPLY[@]}"`
	if got := shellOutput(t, dir, "bash", "--norc", "-c", inside); strings.TrimSpace(got) != "dump" {
		t.Errorf("inside a line: %q", got)
	}
}

// TestFishCompletion asks fish itself.
func TestFishCompletion(t *testing.T) {
	dir := completionDir(t, "fish")
	t.Setenv("HOME", dir)
	t.Setenv("XDG_CONFIG_HOME", dir+"/.config")
	t.Setenv("XDG_DATA_HOME", dir+"/.data")
	const harness = `blkbak completion fish | source
for line in $argv
	complete -C "$line" | string replace -r '\t.*' '' | string replace -r '^--[^=]*=' '' | string replace -r '/$' ''
	echo ====
end`
	checkCompleted(t, shellOutput(t, dir, append([]string{"fish", "--no-config", "-c", harness}, lines()...)...))
}

// TestZshCompletion calls the script's function with what zsh's completion system
// gives it, and functions in place of those that it offers to.
func TestZshCompletion(t *testing.T) {
	dir := completionDir(t, "zsh")
	const harness = `
compdef() { registered="$*" }
eval "$(blkbak completion zsh)"
[[ $registered == '_blkbak blkbak' ]] || { print -u2 "registered: $registered"; exit 1 }
_describe() { local o; for o in "${(@P)2}"; do
	o=${o//\\:/$'\1'}; o=${o%%:*}; o=${o//$'\1'/:}
	[[ $o == "$PREFIX"* ]] && print -r -- "${o##--*=}"; done; true }
compset() { [[ $PREFIX == ${~2}* ]] && PREFIX=${PREFIX##${~2}} }
_files() { local f; for f in $PREFIX*(N); do [[ $1 != -/ || -d $f ]] && print -r -- $f; done; true }
for given; do
words=(${(z)given}) ; [[ $given == *' ' ]] && words+=('')
CURRENT=$#words PREFIX=$words[-1] IPREFIX=
_blkbak
print '===='
done`
	checkCompleted(t, shellOutput(t, dir, append([]string{"zsh", "-f", "-c", harness, "harness"}, lines()...)...))
}

// TestManual renders the page and wants no complaint.
func TestManual(t *testing.T) {
	if _, err := exec.LookPath("man"); err != nil {
		t.Skip("no man here")
	}
	dir := t.TempDir()
	page := filepath.Join(dir, "blkbak.1")
	shellOutput(t, dir, "sh", "-c", "blkbak man > blkbak.1")
	text := shellOutput(t, dir, "man", "--warnings=all", "-P", "cat", "-l", page)
	for _, want := range []string{"BLKBAK(1)", "NAME", "blkbak cow dump", "--origin-size SIZE", "EXIT STATUS"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if strings.Contains(text, "__complete") {
		t.Error("the page shows what is hidden")
	}
}
