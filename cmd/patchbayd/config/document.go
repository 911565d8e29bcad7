package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v3"

	"github.com/patchbay-cni/patchbay/internal/explain"
)

// document reads a file of one document, or of none.
func document(b []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return null(), nil
	case err != nil:
		return nil, fmt.Errorf("%s (is the indentation right, with spaces only?)", plain(err))
	}
	if err := dec.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("it has more than one document (---): there can be one")
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode && root.Tag != "!!null" {
		return nil, wrong(root, "", "keys with values")
	}
	return root, nil
}

func null() *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"} }

// plain is the text of an error of the YAML parser, without the parser's name.
func plain(err error) string {
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "yaml: "), "unmarshal errors:\n  ")
	return strings.ReplaceAll(text, "\n  ", "; ")
}

// put sets key=value (dotted keys, the value in YAML) in the document.
func put(at *yaml.Node, setting string) error {
	key, text, ok := strings.Cut(setting, "=")
	parts := strings.Split(key, ".")
	if !ok || slices.Contains(parts, "") {
		return errors.New("it must be key=value, with dotted keys, such as log.level=debug")
	}
	var value yaml.Node
	if err := yaml.Unmarshal([]byte(text), &value); err != nil {
		return fmt.Errorf("%s: the value must be YAML, such as a text, or a list in square brackets", plain(err))
	}
	for _, p := range parts {
		at = entry(at, p)
	}
	*at = *null()
	if len(value.Content) > 0 {
		*at = *value.Content[0]
	}
	at.Line = 0
	return nil
}

// entry returns what a mapping has under a key, which it makes if it is missing. A node that is no mapping
// becomes one.
func entry(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		*n = yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	made := null()
	n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, made)
	return made
}

// check compares a document with the type that it is to be decoded into. The error says in words what doesn't
// fit, with its key and line.
func check(n *yaml.Node, t reflect.Type, at string) error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Tag == "!!null" {
		return nil
	}
	if t == reflect.TypeFor[time.Duration]() {
		if _, err := time.ParseDuration(n.Value); err != nil {
			return wrong(n, at, "a duration, such as 60s")
		}
		n.Tag = "!!str" // as a number, the decoder would refuse 0
		return nil
	}
	switch t.Kind() {
	case reflect.Struct:
		return checkKeys(n, at, explain.Keys(t, "yaml"))
	case reflect.Map:
		return checkKeys(n, at, map[string]reflect.Type{"": t.Elem()})
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			return wrong(n, at, "a list, such as [a, b]")
		}
		for i, v := range n.Content {
			if err := check(v, t.Elem(), fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
	default:
		if n.Decode(reflect.New(t).Interface()) != nil {
			return wrong(n, at, scalars[t.Kind()])
		}
	}
	return nil
}

var scalars = map[reflect.Kind]string{reflect.Bool: "true or false", reflect.Int: "a whole number", reflect.String: "a text"}

// checkKeys checks a mapping. If known has the key "", the mapping can have any keys.
func checkKeys(n *yaml.Node, at string, known map[string]reflect.Type) error {
	if n.Kind != yaml.MappingNode {
		return wrong(n, at, "keys with values")
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if k.Tag == "!!merge" {
			continue
		}
		t, ok := known[k.Value]
		if any, all := known[""]; all {
			t, ok = any, true
		}
		path := strings.TrimPrefix(at+"."+k.Value, ".")
		if !ok {
			return fmt.Errorf("%sunknown key %q%s", line(k), path, explain.Hint(k.Value, slices.Collect(maps.Keys(known))))
		}
		if err := check(n.Content[i+1], t, path); err != nil {
			return err
		}
	}
	return nil
}

func wrong(n *yaml.Node, at, want string) error {
	have := fmt.Sprintf("%q", n.Value)
	switch n.Kind {
	case yaml.MappingNode:
		have = "keys with values"
	case yaml.SequenceNode:
		have = "a list"
	}
	if at == "" {
		at = "the configuration"
	}
	return fmt.Errorf("%s%s must be %s, not %s", line(n), at, want, have)
}

// line is the begin of an error's text; what --set has given has no line.
func line(n *yaml.Node) string {
	if n.Line == 0 {
		return ""
	}
	return fmt.Sprintf("line %d: ", n.Line)
}
