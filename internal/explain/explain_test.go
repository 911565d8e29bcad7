package explain

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestJSONErrorsAreExplainedInWords(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{``, "it is empty"},
		{`[]`, "it must be an object in braces, not a list, at character 1"},
		{`"x"`, "it must be an object in braces, not a text"},
		{`{"name": "data"`, "it ends before it is complete, at character 15: a bracket or a quote is not closed"},
		{`{"name": "data`, "it ends before it is complete"},
		{`{"name": }`, "} at character 10 comes too early"},
		{`{"name": "a",}`, "} at character 14 comes too early"},
		{`{'name': "a"}`, "' at character 2 is not JSON: texts and keys stand in double quotes"},
		{`{"name": blue}`, "b at character 10 is not JSON: texts and keys stand in double quotes"},
		{`{"name" "a"}`, `" at character 9 is not JSON there: a comma, colon, bracket or quote before it is missing`},
		{"{\n \"name\": \"a\n\"}", "the line ends inside a text, at line 2, character 12"},
		{`{"name": 7}`, `"name" must be a text in double quotes, not a number`},
		{`{"mtu": "1500"}`, `"mtu" must be a whole number, not a text`},
		{`{"mtu": 1.5}`, `"mtu" must be a whole number, not number 1.5`},
		{`{"on": "yes"}`, `"on" must be true or false, not a text`},
		{`{"ips": "10.0.0.1"}`, `"ips" must be a list in square brackets, not a text`},
		{`{"dns": {"domian": "x"}}`, `unknown key "dns.domian": did you mean "domain"?`},
		{`{"netwrok": "x"}`, `unknown key "netwrok": did you mean "network"?`},
		{`{"zzzzzz": "x"}`, `unknown key "zzzzzz": there are dns, ips, mtu, name, network, on`},
	} {
		var into struct {
			Name    string   `json:"name"`
			Network string   `json:"network,omitempty"`
			MTU     int      `json:"mtu"`
			On      *bool    `json:"on"`
			IPs     []string `json:"ips"`
			DNS     struct {
				Domain string `json:"domain"`
			} `json:"dns"`
		}
		err := Strict([]byte(c.text), &into)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.text, err, c.want)
		}
	}
}

// Whatever is wrong, the explanation is ours.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a": }`, `{"a": tru}`, `nul`, "{\"a\": \"\x01\"}", `{"a": "\x"}`, `{"a": 1e}`, `{} {}`, "\xff", `[1,,2]`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var into map[string]int
		if err := json.Unmarshal([]byte(s), &into); err != nil {
			for _, word := range []string{"json:", "invalid character", "unexpected end", "unmarshal", "Go "} {
				if text := JSON([]byte(s), err); strings.Contains(text, word) && !strings.Contains(s, word) {
					t.Errorf("%q: %s", s, text)
				}
			}
		}
	})
}
