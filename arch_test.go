package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport says which packages of ours each one may import. An empty list
// means none; "/..." takes in what lies below. Tests may import any package
// that theirs may, and test helpers.
var mayImport = map[string][]string{
	".":                     {"agent"},
	"agent":                 {"agent/...", "discovery/...", "reserve/...", "measure", "measure/predict", "overlay/..."},
	"agent/bench":           {},
	"agent/chart":           {},
	"agent/decide":          {"discovery", "measure", "overlay", "overlay/mesh", "overlay/route"},
	"agent/sim":             {"agent/decide", "discovery", "measure", "overlay", "overlay/mesh", "overlay/route"},
	"agent/lab":             {"agent/lab/guest", "agent/lab/nat", "reserve", "reserve/nsi/cs", "reserve/nsi/provider", "measure", "overlay"},
	"agent/lab/guest":       {},
	"agent/lab/nat":         {"overlay"},
	"discovery":             {"measure", "overlay"},
	"discovery/beacon":      {"discovery", "overlay"},
	"discovery/portmap":     {},
	"discovery/p2p":         {"discovery", "measure", "overlay"},
	"reserve":               {"measure", "overlay"},
	"reserve/nsi":           {"reserve", "reserve/nsi/cs", "overlay"},
	"reserve/nsi/cs":        {"overlay"},
	"reserve/nsi/provider":  {"reserve/nsi/cs", "overlay"},
	"reserve/dscp":          {"overlay", "reserve"},
	"reserve/tc":            {"overlay", "reserve"},
	"measure":               {"overlay"},
	"measure/predict":       {"overlay"},
	"overlay":               {"overlay/internal/gcm"},
	"overlay/link":          {"overlay"},
	"overlay/mesh":          {"overlay"},
	"overlay/poll":          {},
	"overlay/route":         {"overlay"},
	"overlay/segment":       {"overlay"},
	"overlay/tap":           {"overlay", "overlay/internal/vnet"},
	"overlay/lan":           {"overlay", "overlay/internal/vnet", "overlay/tap"},
	"overlay/qemu":          {"overlay"},
	"overlay/internal/gcm":  {},
	"overlay/internal/vnet": {"overlay"},
	"reserve/exec":          {"overlay", "reserve"},
	"reserve/ovs":           {"overlay", "reserve"},
	"reserve/reservetest":   {"overlay", "reserve"},
	"reserve/vlan":          {"overlay", "reserve", "reserve/nsi/cs"},
	"overlay/nstest":        {},
}

// pure are the packages that decide: no clock, no global randomness, no I/O, no
// goroutines.
var pure = []string{"agent/chart", "agent/decide", "agent/lab/nat", "agent/sim", "discovery", "reserve", "reserve/nsi/cs", "measure", "measure/predict", "overlay", "overlay/mesh", "overlay/route", "overlay/segment"}

// impure is what pure packages must not use.
var impure = map[string][]string{
	"time":         {"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"},
	"crypto/rand":  {"*"},
	"math/rand":    {"*"},
	"math/rand/v2": {"Int", "IntN", "Int64", "Int64N", "Uint32", "Uint32N", "Uint64", "Uint64N", "Float64", "Perm", "Shuffle", "N", "NormFloat64", "ExpFloat64"},
	"os":           {"*"},
	"net":          {"*"},
	"os/exec":      {"*"},
	"syscall":      {"*"},
}

// goroutineOwners are the packages that may start goroutines, test helpers
// aside: others hand the agent a function to run.
var goroutineOwners = []string{"agent", "agent/lab", "overlay/nstest"}

// A source is a Go file that is part of the program.
type source struct {
	path, folder string
	file         *ast.File
	fset         *token.FileSet
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, 0)
		if err != nil {
			return err
		}
		all = append(all, source{path, filepath.ToSlash(filepath.Dir(path)), f, fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("only %d files found: the test looks in the wrong place", len(all))
	}
	return all
}

func TestImportArrows(t *testing.T) {
	for _, s := range sources(t) {
		allowed, known := mayImport[s.folder]
		if !known {
			t.Errorf("%s: package %s is not in mayImport: say there what it may import", s.path, s.folder)
			continue
		}
		for _, i := range s.file.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			ours, ok := strings.CutPrefix(path, "farlan/")
			if ok && !slices.ContainsFunc(allowed, func(a string) bool { return matches(a, ours) }) {
				t.Errorf("%s imports %s: wrong direction", s.fset.Position(i.Pos()), path)
			}
		}
	}
}

// matches says whether pattern names path, or a folder above it.
func matches(pattern, path string) bool {
	folder, tree := strings.CutSuffix(pattern, "/...")
	return path == folder || (tree && strings.HasPrefix(path, folder+"/"))
}

func TestPurity(t *testing.T) {
	for _, s := range sources(t) {
		if !slices.Contains(pure, s.folder) {
			continue
		}
		names := make(map[string]string) // as the file calls it → path
		for _, i := range s.file.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			if slices.Contains(impure[path], "*") {
				t.Errorf("%s: %s in a package that decides", s.fset.Position(i.Pos()), path)
			}
			name := filepath.Base(strings.TrimSuffix(path, "/v2"))
			if i.Name != nil {
				name = i.Name.Name
			}
			names[name] = path
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(impure[names[x.Name]], sel.Sel.Name) {
					t.Errorf("%s: %s.%s in a package that decides", s.fset.Position(n.Pos()), x.Name, sel.Sel.Name)
				}
			}
			return true
		})
	}
}

func TestGoroutineOwner(t *testing.T) {
	for _, s := range sources(t) {
		if slices.Contains(goroutineOwners, s.folder) {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok {
				t.Errorf("%s: a goroutine is started outside agent", s.fset.Position(g.Pos()))
			}
			return true
		})
	}
}

// The house style: functions that fit a screen, files that are one idea.
func TestSizes(t *testing.T) {
	const maxFunction, maxFile = 65, 420
	for _, s := range sources(t) {
		b, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(b), "\n"); n > maxFile {
			t.Errorf("%s has %d lines: is it still one idea?", s.path, n)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1; n > maxFunction {
				t.Errorf("%s: %s has %d lines", s.fset.Position(f.Pos()), f.Name.Name, n)
			}
		}
	}
}
