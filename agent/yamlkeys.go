package agent

import (
	"fmt"
	"maps"
	"slices"

	"go.yaml.in/yaml/v3"
)

// A yamlReader reads files whose keys have keys below them, and collects what is wrong with them:
// each error names the line, and unknown keys the nearest known one.
type yamlReader struct {
	what string // "NSI file /etc/farlan/nsi.yaml"
	errs []error
}

// yamlKeys read the values of keys.
type yamlKeys map[string]func(*yaml.Node) error

// fail notes what is wrong at a node, or with the whole, and what to do.
func (r *yamlReader) fail(n *yaml.Node, hint, format string, args ...any) {
	where := r.what + ": "
	if n != nil {
		where = fmt.Sprintf("%s, line %d: ", r.what, n.Line)
	}
	r.errs = append(r.errs, usagef("%s", hint)("%s"+format, append([]any{where}, args...)...))
}

// read reads a whole file.
func (r *yamlReader) read(b []byte, keys yamlKeys) {
	var all yaml.Node
	err := yaml.Unmarshal(b, &all)
	switch {
	case err != nil:
		r.fail(nil, "it holds one 'key: value' a line, lists in brackets or with dashes", "%w", err)
	case len(all.Content) != 1:
		r.fail(nil, "it holds one 'key: value' a line", "it is empty")
	default:
		r.mapping(all.Content[0], keys)
	}
}

// mapping reads a node that has keys below it.
func (r *yamlReader) mapping(n *yaml.Node, keys yamlKeys) {
	if n.Kind != yaml.MappingNode {
		r.fail(n, "", "want keys and values, as 'key: value'")
		return
	}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		read := keys[key.Value]
		switch {
		case read == nil:
			r.fail(key, "the nearest known key is \""+nearestOf(slices.Sorted(maps.Keys(keys)), key.Value)+"\"", "unknown key %q", key.Value)
		case seen[key.Value]:
			r.fail(key, "", "key %q is given twice", key.Value)
		default:
			if err := read(value); err != nil {
				r.fail(value, hintOf(err), "key %q: %w", key.Value, err)
			}
		}
		seen[key.Value] = true
	}
}

// below returns what reads a value that has keys of its own.
func (r *yamlReader) below(keys func() yamlKeys) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		r.mapping(n, keys())
		return nil
	}
}

// each returns what reads the values of a list.
func (r *yamlReader) each(read func(*yaml.Node)) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		if n.Kind != yaml.SequenceNode {
			return usagef("")("want a list, each with a dash before it")
		}
		for _, x := range n.Content {
			read(x)
		}
		return nil
	}
}

// scalar returns what reads a plain value.
func scalar(parse func(string) error) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		if n.Kind != yaml.ScalarNode {
			return usagef("")("want a plain value")
		}
		return parse(n.Value)
	}
}

// word returns what reads a plain value as it is.
func word(to *string) func(*yaml.Node) error {
	return scalar(func(s string) error { *to = s; return nil })
}

// nearestOf returns the name that is most like another one; of those the first.
func nearestOf(names []string, name string) (best string) {
	least := 1 << 30
	for _, n := range names {
		if d := editDistance(n, name); d < least {
			best, least = n, d
		}
	}
	return best
}
