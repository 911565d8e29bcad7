// Package explain says in words what is wrong with JSON that somebody wrote: where, what stands there,
// and what would be right, and keeps texts short. The plugin that runtimes execute links it: the standard library only.
package explain

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// MaxText is how long a text may be that is kept or passed on, in bytes: that of an Event is 1024 at most.
const MaxText = 1000

// Shortened is a text of others' making, no longer than MaxText and an ellipsis.
func Shortened(text string) string {
	if len(text) <= MaxText {
		return text
	}
	return strings.ToValidUTF8(text[:MaxText], "") + "..." // without a half of a character
}

// JSON says what is wrong with the JSON in b, and where: line and character.
func JSON(b []byte, err error) string {
	if len(bytes.TrimSpace(b)) == 0 {
		return "it is empty"
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return explainSyntax(b, int(syntax.Offset))
	}
	if typ, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		what := "it"
		if typ.Field != "" {
			what = fmt.Sprintf("%q", typ.Field)
		}
		return fmt.Sprintf("%s must be %s, not %s, at %s", what, cmp.Or(wanted[typ.Type.Kind()], "a whole number"),
			cmp.Or(found[typ.Value], typ.Value), position(b, int(typ.Offset)))
	}
	return err.Error()
}

// explainSyntax looks at the character that JSON does not allow: the parser's own words speak of
// its state.
func explainSyntax(b []byte, offset int) string {
	offset = min(max(offset, 1), len(b))
	at := position(b, offset)
	if opened(b) {
		return "it ends before it is complete, at " + at + ": a bracket or a quote is not closed"
	}
	c := b[offset-1]
	switch {
	case c == '\'':
		return "' at " + at + " is not JSON: texts and keys stand in double quotes"
	case c == '\n' || c == '\r':
		return "the line ends inside a text, at " + at + ": a double quote is missing"
	case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_':
		return fmt.Sprintf("%c at %s is not JSON: texts and keys stand in double quotes, or a comma is missing before it", c, at)
	case c == '}' || c == ']':
		return fmt.Sprintf("%c at %s comes too early: something is missing before it, or a comma is too much", c, at)
	}
	return fmt.Sprintf("%s at %s is not JSON there: a comma, colon, bracket or quote before it is missing or too much", string(rune(c)), at)
}

// opened reports whether brackets or a quote are still open at the end.
func opened(b []byte) bool {
	err := json.NewDecoder(bytes.NewReader(b)).Decode(new(json.RawMessage))
	return errors.Is(err, io.ErrUnexpectedEOF) && bytes.ContainsAny(b, `{["`) // else it is half a number or word
}

// found says in words what stands in JSON, by what the decoder calls it. Where a whole number is wanted, it
// calls another one "number 1.5", which may stay as it is.
var found = map[string]string{"string": "a text", "number": "a number", "array": "a list", "object": "an object", "bool": "true or false"}

// wanted says in words what a kind of Go types is in JSON. All other kinds are whole numbers.
var wanted = map[reflect.Kind]string{
	reflect.String: "a text in double quotes", reflect.Bool: "true or false",
	reflect.Slice: "a list in square brackets", reflect.Array: "a list in square brackets",
	reflect.Map: "an object in braces", reflect.Struct: "an object in braces",
	reflect.Float32: "a number", reflect.Float64: "a number",
}

// Strict reads an object into a struct. A key that the struct does not have is an error, which names
// the key that was probably meant.
func Strict(b []byte, into any) error {
	if err := json.Unmarshal(b, into); err != nil {
		return errors.New(JSON(b, err))
	}
	return unknownKey(b, reflect.TypeOf(into).Elem(), "")
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// unknownKey returns an error for a key that a struct, or one within it, does not have. A type that unmarshals
// itself knows its keys best.
func unknownKey(b json.RawMessage, t reflect.Type, at string) error {
	var keys map[string]json.RawMessage
	if reflect.PointerTo(t).Implements(unmarshaler) || t.Kind() != reflect.Struct || json.Unmarshal(b, &keys) != nil {
		return nil
	}
	known := Keys(t, "json")
	names := slices.Sorted(maps.Keys(known))
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		i := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, k) }) // as encoding/json takes them
		if i < 0 {
			return fmt.Errorf("unknown key %s%s", Key(at+k), Hint(k, names))
		}
		if err := unknownKey(keys[k], known[names[i]], at+k+"."); err != nil {
			return err
		}
	}
	return nil
}

// Keys returns the types of a struct's fields by the keys that a tag, such as json, gives them.
func Keys(t reflect.Type, tag string) map[string]reflect.Type {
	known := map[string]reflect.Type{}
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get(tag), ","); name != "" && name != "-" {
			known[name] = f.Type
		}
	}
	return known
}

// maxKey is how much of a key an error shows.
const maxKey = 64

// Key is a key in quotes; of a very long one, its beginning.
func Key(key string) string {
	if len(key) <= maxKey {
		return fmt.Sprintf("%q", key)
	}
	return fmt.Sprintf("%q...", strings.ToValidUTF8(key[:maxKey], ""))
}

// Hint returns the end of an error's text: what a mistyped key was probably meant to be, or which keys there are.
func Hint(key string, known []string) string {
	slices.Sort(known)
	best, least := "", 3
	for _, k := range known {
		if max(len(k)-len(key), len(key)-len(k)) >= least {
			continue // and a key may be as long as its author likes
		}
		if d := distance(strings.ToLower(key), strings.ToLower(k)); d < least && d < len(key) {
			best, least = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf(": did you mean %q?", best)
	}
	return ": there are " + strings.Join(known, ", ")
}

// distance is how many characters differ, two that changed places counting as one (optimal string
// alignment).
func distance(a, b string) int {
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range b {
		d[0][j+1] = j + 1
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}

func position(b []byte, offset int) string {
	before := b[:min(max(offset, 1), len(b))-1]
	line, character := bytes.Count(before, []byte("\n"))+1, len(before)-bytes.LastIndexByte(before, '\n')
	if line == 1 {
		return fmt.Sprintf("character %d", character)
	}
	return fmt.Sprintf("line %d, character %d", line, character)
}
