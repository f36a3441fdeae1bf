package agent

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"farlan/overlay"
)

// release is this version; the linker may set it.
var release = "0.1.0"

// version returns the release, and the commit that it was built from if that is
// known.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return release
	}
	commit, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			commit = "+" + s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = ".dirty"
		}
	}
	if commit == "" {
		return release
	}
	return release + commit + dirty
}

func newVersion() *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versionView{schemaVersion, version(), overlay.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH}
			if out.json != "" {
				return out.print(cmd, v)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "farlan %s (wire version %d, %s, %s/%s)\n", v.Version, v.Wire, v.Go, v.OS, v.Arch)
			return err
		},
	}
	out.addFlag(cmd)
	return cmd
}
