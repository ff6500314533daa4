package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"
)

// version is set when a release is linked: -ldflags "-X main.version=1.2.3".
var version string

// build is what the program knows of its making; also the document of
// `version --json`.
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`   // "" when built outside a checkout
	Modified bool   `json:"modified"` // the checkout differed from the commit
	Time     string `json:"time"`     // of the commit, RFC 3339
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
}

func buildOf(version string, info *debug.BuildInfo) build {
	b := build{Version: version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	if info != nil {
		if b.Version == "" {
			b.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Commit = s.Value
			case "vcs.time":
				b.Time = s.Value
			case "vcs.modified":
				b.Modified = s.Value == "true"
			}
		}
	}
	if b.Version == "" {
		b.Version = "(devel)"
	}
	return b
}

func (b build) String() string {
	s := fmt.Sprintf("%s %s (%s, %s/%s)", programName, b.Version, b.Go, b.OS, b.Arch)
	if b.Commit != "" {
		s += "\ncommit " + b.Commit
		if b.Modified {
			s += ", modified"
		}
	}
	return s
}

// day is the date of the commit, "" when that is not known.
func (b build) day() string {
	day, _, _ := strings.Cut(b.Time, "T")
	return day
}

func currentBuild() build {
	info, _ := debug.ReadBuildInfo() // nil without module support
	return buildOf(version, info)
}

func versionCommand(a *app) *cli.Command {
	return &cli.Command{
		Name:     "version",
		Category: groupOther,
		Usage:    "show the version and how it was built",
		Description: `
Examples:
  blkbak version
  blkbak version --json`,
		Action: func(*cli.Context) error {
			b := currentBuild()
			return a.print(b, func(w io.Writer) { fmt.Fprintln(w, b) })
		},
	}
}
