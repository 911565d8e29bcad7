package meta

import (
	"strings"
	"testing"

	nadutils "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/utils"

	"github.com/patchbay-cni/patchbay/test/bound"
)

// F1: the networks annotation, in both forms. What is accepted can be made, and what the Network Plumbing
// Working Group's own parser accepts, too, means the same to both.
func FuzzF1Annotation(f *testing.F) {
	for _, s := range []string{"", "a", "a,b/c@d", `[{"name":"a"}]`, `[{"name":"a","ips":["10.0.0.1/8"],"cni-args":{"x":[1]}}]`, `[{"name":"a","default-route":["::1"]}]`, "[",
		`[null]`, `[{"name":"a","portMappings":[{"hostPort":1,"containerPort":1}]}]`, `[{"name":"a","namespace":"b","interface":"net9","mac":"02:00:00:00:00:01"}]`, " a , b "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, annotation string) {
		var sels []Selection
		var err error
		bound.Check(t, func() { sels, err = ParseNetworks(annotation, "default") })
		if err != nil {
			if err.Error() == "" || len(err.Error()) > 4<<10 {
				t.Errorf("%q: %q", annotation, err)
			}
			return
		}
		for _, s := range sels {
			if s.Name == "" || s.Namespace == "" || len(s.Interface) > 15 || strings.Contains(s.Interface, "/") {
				t.Errorf("%q gave %+v", annotation, s)
			}
		}
		theirs, err := nadutils.ParseNetworkAnnotation(annotation, "default")
		if err != nil || strings.TrimSpace(annotation) == "" { // to which the other says one network without a name
			return
		}
		if len(theirs) != len(sels) {
			t.Fatalf("%q: %d networks, and %d to the other parser", annotation, len(sels), len(theirs))
		}
		for i, s := range sels {
			o := theirs[i]
			if s.Name != o.Name || s.Namespace != o.Namespace || s.Interface != o.InterfaceRequest || s.MAC != o.MacRequest {
				t.Errorf("%q: element %d is %+v, and %+v to the other parser", annotation, i+1, s, o)
			}
		}
	})
}
