package delegates

import (
	"encoding/json"
	"strings"
	"testing"
)

// What a runtime asks of the bandwidth plugin beyond the four rates reaches the plugin.
func TestBandwidthKeepsKeysThatOnlyThePluginKnows(t *testing.T) {
	r, err := ParseRequests(map[string]json.RawMessage{"bandwidth": json.RawMessage(`{"ingressRate":1000,"ingressBurst":2000,"unshapedSubnets":["10.0.0.0/8"]}`)})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(r)
	if !strings.Contains(string(b), "unshapedSubnets") {
		t.Errorf("lost: %s", b)
	}
}

// A record of the release before holds what was given, unread; it stays readable.
func TestRecordsOfTheReleaseBeforeStayReadable(t *testing.T) {
	for _, was := range []string{
		`{"bandwidth":{"ingressRate":18446744073709551615,"ingressBurst":1}}`,
		`{"bandwidth":{"ingressRate":1e6,"ingressBurst":1}}`,
		`{"mac":"0x020000000001"}`,
		`{"ips":["10.1.2.3 "]}`,
	} {
		var r Requests
		if err := json.Unmarshal([]byte(was), &r); err != nil {
			t.Errorf("%s: %v", was, err)
		}
	}
}
