package manifest

import (
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/test/bound"
)

// F2: a file of NADs and pods. What it says wrongly is told by the line; what is read has a name.
func FuzzF2Manifest(f *testing.F) {
	for _, s := range []string{"", manifestOf("data"), "kind: NetworkAttachmentDefinition\nmetadata: {name: n}", "a: &a [*a]", "- 1\n---\nkind: Pod", "kind: List\nitems: [{kind: Pod, metadata: {name: 1.10}}]",
		"{\"kind\": \"Pod\"}", "<<: {<<: {}}", "\t", "kind: NetworkAttachmentDefinition\nmetadata: {name: n}\nspec: {config: '{\"plugins\": [{}]}'}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		var o objects
		var err error
		bound.Check(t, func() { o, err = parse(file) })
		for k := range o.networks {
			if k.name == "" || k.namespace == "" {
				t.Errorf("%q has a network without a name: %+v", file, k)
			}
		}
		if err != nil && (strings.Contains(err.Error(), "yaml:") || strings.Contains(err.Error(), "Go ")) {
			t.Errorf("%q: %v", file, err)
		}
	})
}
