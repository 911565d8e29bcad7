package manifest

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/patchbay-cni/patchbay/internal/explain"
)

const mergeKey = "<<"

// checkAliases refuses an alias that leads to itself, which whoever follows aliases would follow without
// end, and a merge of anything but objects. Each node is looked at once: an alias can only name what
// stands before it, which has been looked at already, or what the alias is inside of.
func checkAliases(doc *yaml.Node) error {
	const inside, done = 1, 2
	state := map[*yaml.Node]int{}
	var look func(n *yaml.Node) error
	look = func(n *yaml.Node) error {
		state[n] = inside
		defer func() { state[n] = done }()
		for i, c := range n.Content {
			at := resolve(c)
			switch state[at] {
			case inside:
				return fmt.Errorf("line %d: *%s leads to itself: an alias can't be inside of what it names", c.Line, c.Value)
			case done:
			default:
				if err := look(at); err != nil {
					return err
				}
			}
			if n.Kind == yaml.MappingNode && i%2 == 1 && resolve(n.Content[i-1]).Value == mergeKey && !mergeable(at) {
				return fmt.Errorf("line %d: << must be an object or a list of objects", c.Line)
			}
		}
		return nil
	}
	return look(doc)
}

func mergeable(n *yaml.Node) bool {
	isObject := func(n *yaml.Node) bool { return resolve(n).Kind == yaml.MappingNode }
	return isObject(n) || n.Kind == yaml.SequenceNode && !slices.ContainsFunc(n.Content, func(c *yaml.Node) bool { return !isObject(c) })
}

// resolve returns what an alias names.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Tag == "!!null" }

type field struct{ key, value *yaml.Node }

// fields returns what a mapping has: its own keys, and those merged in that it does not have. A node
// that is merged in twice adds nothing the second time.
func fields(n *yaml.Node) []field {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	var all []field
	keys, seen := map[string]bool{}, map[*yaml.Node]bool{}
	var read func(n *yaml.Node)
	read = func(n *yaml.Node) {
		if seen[n] {
			return
		}
		seen[n] = true
		merged := n.Content // of a list of mappings
		if n.Kind == yaml.MappingNode {
			merged = nil
			for i := 0; i+1 < len(n.Content); i += 2 {
				k := resolve(n.Content[i])
				switch {
				case k.Value == mergeKey:
					merged = append(merged, n.Content[i+1])
				case !keys[k.Value]:
					keys[k.Value] = true
					all = append(all, field{k, resolve(n.Content[i+1])})
				}
			}
		}
		for _, m := range merged {
			read(resolve(m))
		}
	}
	read(n)
	return all
}

// value is what a mapping has under a key, of its own or merged in; nil if it has nothing, or null.
func value(n *yaml.Node, key string) *yaml.Node {
	for _, f := range fields(n) {
		if f.key.Value == key && !isNull(f.value) {
			return f.value
		}
	}
	return nil
}

// scalar reads a text as it was written; a node that is missing or null leaves into as it is.
func scalar(n *yaml.Node, what string, into *string) error {
	switch {
	case n == nil || isNull(n):
		return nil
	case n.Kind != yaml.ScalarNode:
		return fmt.Errorf("line %d: %s must be a text, not %s: put it into quotes, or behind a |", n.Line, what, kindOf(n))
	}
	*into = n.Value
	return nil
}

// checkKeys refuses a key that is not known or there twice. If known is nil, every key is.
func checkKeys(n *yaml.Node, what string, known []string) error {
	if n == nil {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: %s must be an object, not %s", n.Line, what, kindOf(n))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := resolve(n.Content[i])
		if seen[k.Value] {
			return fmt.Errorf("line %d: %s has the key %q twice", k.Line, what, k.Value)
		}
		seen[k.Value] = true
	}
	for _, f := range fields(n) {
		if k := f.key; known != nil && !slices.Contains(known, k.Value) {
			return fmt.Errorf("line %d: unknown key %q in %s%s", k.Line, k.Value, what, explain.Hint(k.Value, slices.Clone(known)))
		}
	}
	return nil
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "an object"
	}
	return fmt.Sprintf("the text %q", n.Value)
}
