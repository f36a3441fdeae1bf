package cs

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// What a message may be at most. The largest that means something is the summary of all of a
// requester's reservations, of which each takes about forty elements and two kilobytes.
const (
	MaxSize     = 4 << 20 // bytes
	maxDepth    = 16      // elements in each other; exceptions of domains below domains need most
	maxElements = 100_000
	maxText     = 4096 // bytes of one element
	maxAttrs    = 16   // of one element
)

// ErrMessage is what everything wraps that Parse doesn't take.
var ErrMessage = errors.New("not an NSI message")

func wrong(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrMessage, fmt.Sprintf(format, a...))
}

// A node is an element with what is in it; text only where there are no elements.
type node struct {
	name  xml.Name
	attrs []xml.Attr
	text  string
	kids  []*node
}

// tree reads one document.
func tree(b []byte) (*node, error) {
	if len(b) > MaxSize {
		return nil, wrong("%d bytes, and %d are taken", len(b), MaxSize)
	}
	d := xml.NewDecoder(bytes.NewReader(b)) // knows UTF-8 and XML's own five entities only
	var root *node
	var open []*node
	for count := 0; ; {
		token, err := d.Token()
		switch {
		case errors.Is(err, io.EOF) && root != nil:
			return root, nil
		case err != nil:
			return nil, wrong("%v", err)
		}
		switch t := token.(type) {
		case xml.Directive:
			return nil, wrong("a document type")
		case xml.StartElement:
			if count++; count > maxElements || len(open) >= maxDepth || len(t.Attr) > maxAttrs {
				return nil, wrong("too many elements or too deep")
			}
			n := &node{name: t.Name, attrs: t.Attr}
			switch {
			case len(open) > 0:
				top := open[len(open)-1]
				top.kids = append(top.kids, n)
			case root != nil:
				return nil, wrong("two documents")
			default:
				root = n
			}
			open = append(open, n)
		case xml.EndElement:
			top := open[len(open)-1] // the decoder has seen to it that there is one
			top.text = strings.TrimSpace(top.text)
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) == 0 {
				continue
			}
			top := open[len(open)-1]
			if len(top.kids) == 0 {
				top.text += string(t)
			}
			if len(top.text) > maxText {
				return nil, wrong("a text of more than %d bytes", maxText)
			}
		}
	}
}

// all returns those below n that are called so.
func (n *node) all(space, local string) []*node {
	var found []*node
	for _, k := range n.kids {
		if k.name.Space == space && k.name.Local == local {
			found = append(found, k)
		}
	}
	return found
}
