package agent

import (
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// load fills in what the command line left out: from the environment, then
// from the configuration file.
func load(flags *pflag.FlagSet, environ func(string) (string, bool)) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		value, ok := environ(envName(f.Name))
		if !ok || f.Changed {
			return
		}
		if err := set(flags, f, splitEnv(f, value)); err != nil {
			errs = append(errs, usagef("")("%s: %w", envName(f.Name), err))
		}
	})
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return loadFile(flags)
}

// envName is the environment variable of a flag.
func envName(flag string) string {
	return "FARLAN_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// splitEnv cuts the value of a variable whose flag repeats at white space.
func splitEnv(f *pflag.Flag, value string) []string {
	if _, repeats := f.Value.(pflag.SliceValue); repeats {
		return strings.Fields(value)
	}
	return []string{value}
}

func set(flags *pflag.FlagSet, f *pflag.Flag, values []string) error {
	for _, v := range values {
		if err := flags.Set(f.Name, v); err != nil {
			return err
		}
	}
	return nil
}

// loadFile sets the flags that the configuration file names and that nothing
// set before.
func loadFile(flags *pflag.FlagSet) error {
	path, err := flags.GetString("config")
	if err != nil {
		return err
	}
	explicit := path != ""
	if !explicit {
		path = defaultConfigFile()
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && !explicit {
		return nil
	}
	if err != nil {
		return hintf("see that the file exists and that this user may read it")("configuration: %w", err)
	}
	var keys map[string]yaml.Node
	if err := yaml.Unmarshal(b, &keys); err != nil {
		return usagef("it holds one 'flag: value' a line, lists in brackets or with dashes")("configuration %s: %w", path, err)
	}
	names := make([]string, 0, len(keys))
	for name := range keys {
		names = append(names, name)
	}
	slices.Sort(names)
	var errs []error
	for _, name := range names {
		node := keys[name]
		if err := setKey(flags, name, &node); err != nil {
			errs = append(errs, usagef("%s", hintOf(err))("configuration %s, line %d: %w", path, node.Line, err))
		}
	}
	return errors.Join(errs...)
}

func hintOf(err error) string {
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		return hinted.Hint()
	}
	return ""
}

// setKey sets the flag that a key of the configuration file names.
func setKey(flags *pflag.FlagSet, name string, node *yaml.Node) error {
	f := flags.Lookup(name)
	if f == nil || name == "config" || name == "help" {
		return usagef("the nearest known key is %q", nearest(flags, name))("unknown key %q", name)
	}
	var values []string
	switch {
	case node.Kind == yaml.ScalarNode:
		values = []string{node.Value}
	case node.Kind == yaml.SequenceNode && f.Value.Type() == "stringArray":
		if err := node.Decode(&values); err != nil {
			return usagef("")("key %q: want a list of texts", name)
		}
	default:
		return usagef("")("key %q: want a plain value", name)
	}
	if f.Changed {
		return nil
	}
	return set(flags, f, values)
}

// nearest returns the flag whose name is most like name.
func nearest(flags *pflag.FlagSet, name string) string {
	best, least := "", 1<<30
	flags.VisitAll(func(f *pflag.Flag) {
		if d := editDistance(f.Name, name); d < least && f.Name != "config" && f.Name != "help" {
			best, least = f.Name, d
		}
	})
	return best
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
