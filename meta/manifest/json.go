package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// fromJSON reads a file as JSON, if it is JSON. Read as YAML, it would not always be the same: not with
// long keys, with rare characters, or beyond the first 65536 characters.
func fromJSON(b []byte) (docs []*yaml.Node, ok bool) {
	b = bytes.TrimPrefix(b, []byte("\ufeff"))
	check := json.NewDecoder(bytes.NewReader(b)) // it limits the depth, which tokens do not
	for {
		var raw json.RawMessage
		err := check.Decode(&raw)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, false
		}
	}
	r := &jsonReader{text: b, dec: json.NewDecoder(bytes.NewReader(b)), line: 1}
	r.dec.UseNumber()
	for {
		n, err := r.node()
		if err != nil {
			return docs, errors.Is(err, io.EOF)
		}
		docs = append(docs, n)
	}
}

// A jsonReader makes YAML nodes of JSON's tokens. The nodes tell their lines.
type jsonReader struct {
	text   []byte
	dec    *json.Decoder
	offset int // up to which lines are counted
	line   int
}

func (r *jsonReader) node() (*yaml.Node, error) {
	t, err := r.dec.Token()
	if err != nil {
		return nil, err
	}
	end := int(r.dec.InputOffset())
	r.line += bytes.Count(r.text[r.offset:end], []byte("\n"))
	r.offset = end
	n := &yaml.Node{Kind: yaml.ScalarNode, Line: r.line}
	switch t := t.(type) {
	case json.Delim:
		n.Kind = yaml.SequenceNode
		if t == '{' {
			n.Kind = yaml.MappingNode
		}
		for r.dec.More() {
			c, err := r.node()
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, c)
		}
		_, err = r.dec.Token() // the end
		return n, err
	case nil:
		n.Tag, n.Value = "!!null", "null"
	default:
		n.Value = fmt.Sprint(t)
	}
	return n, nil
}
