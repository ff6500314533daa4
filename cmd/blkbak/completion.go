package main

import (
	_ "embed"
	"io"

	"github.com/urfave/cli/v2"
)

// The scripts know no command and no flag: they ask the program at every
// completion, so that they fit whichever version is installed.
var (
	//go:embed completion/blkbak.bash
	bashScript string
	//go:embed completion/blkbak.zsh
	zshScript string
	//go:embed completion/blkbak.fish
	fishScript string
)

func completionCommand(a *app) *cli.Command {
	scripts := map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}
	return &cli.Command{
		Name:      "completion",
		Category:  groupOther,
		Usage:     "print the script that completes command lines in a shell",
		ArgsUsage: "bash|zsh|fish",
		Description: `
Commands, flags, their values and file names are completed. The script asks
blkbak itself what could follow, so it need not be made anew after an update.

Examples:
  blkbak completion bash > /etc/bash_completion.d/blkbak
  blkbak completion zsh > "${fpath[1]}/_blkbak"
  blkbak completion fish > ~/.config/fish/completions/blkbak.fish`,
		Action: func(c *cli.Context) error {
			_, err := io.WriteString(a.stdout, scripts[c.Args().First()])
			return err
		},
	}
}
