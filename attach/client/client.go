package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
)

// DefaultServer is the local daemon's socket.
const DefaultServer = "unix:///run/patchbay/api.sock"

// A Client calls the API of one daemon.
type Client struct {
	server string // as errors name it
	base   string
	token  string
	http   *http.Client
}

// New returns a client of the server: unix:///path/to/api.sock, or an https:// address with a
// bearer token.
func New(server, token string) (*Client, error) {
	if path, ok := strings.CutPrefix(server, "unix://"); ok {
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
		return &Client{server: path, base: "http://patchbay", http: &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 16}}}, nil
	}
	if u, err := url.Parse(server); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("server %q must be unix:///path/to/api.sock or https://host:port", server)
	}
	return &Client{server: server, base: strings.TrimSuffix(server, "/"), token: token, http: &http.Client{}}, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func path(namespace, pod string, more ...string) string {
	p := "/v1/namespaces/" + url.PathEscape(namespace) + "/pods/" + url.PathEscape(pod) + "/attachments"
	for _, m := range more {
		p += "/" + url.PathEscape(m)
	}
	return p
}

// Attach makes an attachment of a running pod and returns it, made.
func (c *Client) Attach(ctx context.Context, namespace, pod string, r Request) (*Attachment, error) {
	return call[*Attachment](ctx, c, http.MethodPost, path(namespace, pod), r)
}

// Ensure is Attach by the interface's name, and may be repeated.
func (c *Client) Ensure(ctx context.Context, namespace, pod, ifName string, r Request) (*Attachment, error) {
	return call[*Attachment](ctx, c, http.MethodPut, path(namespace, pod, ifName), r)
}

// Detach removes an attachment.
func (c *Client) Detach(ctx context.Context, namespace, pod, ifName string) error {
	return c.do(ctx, http.MethodDelete, path(namespace, pod, ifName), nil, nil)
}

// ForceDetach removes an attachment, from the record alone if it can't be unmade.
func (c *Client) ForceDetach(ctx context.Context, namespace, pod, ifName string) error {
	return c.do(ctx, http.MethodDelete, path(namespace, pod, ifName)+"?force=true", nil, nil)
}

// Leftovers returns what is on the daemon's node without a record, or was given up.
func (c *Client) Leftovers(ctx context.Context) ([]Leftover, error) {
	return call[[]Leftover](ctx, c, http.MethodGet, "/v1/leftovers", nil)
}

// RemoveLeftover removes one of them.
func (c *Client) RemoveLeftover(ctx context.Context, kind, id string) error {
	return c.do(ctx, http.MethodDelete, "/v1/leftovers/"+url.PathEscape(kind)+"/"+url.PathEscape(id), nil, nil)
}

// Get returns one attachment.
func (c *Client) Get(ctx context.Context, namespace, pod, ifName string) (*Attachment, error) {
	return call[*Attachment](ctx, c, http.MethodGet, path(namespace, pod, ifName), nil)
}

// List returns attachments.
func (c *Client) List(ctx context.Context, f Filter) ([]Attachment, error) {
	return call[[]Attachment](ctx, c, http.MethodGet, "/v1/attachments?"+f.query(), nil)
}

// Sandboxes returns the sandboxes of the daemon's node.
func (c *Client) Sandboxes(ctx context.Context) ([]Sandbox, error) {
	return call[[]Sandbox](ctx, c, http.MethodGet, "/v1/sandboxes", nil)
}

// Nodes returns the nodes.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	return call[[]Node](ctx, c, http.MethodGet, "/v1/nodes", nil)
}

// Pools returns the address pools, with all their claims. One answer of the daemon has so many at most: it asks again for
// the rest of each pool.
func (c *Client) Pools(ctx context.Context) ([]Pool, error) {
	pools, err := call[[]Pool](ctx, c, http.MethodGet, "/v1/pools", nil)
	for i := range pools {
		if err == nil && pools[i].Continue != "" {
			err = c.fill(ctx, &pools[i])
		}
	}
	return pools, err
}

// fill adds the claims that a pool's answer lacks.
func (c *Client) fill(ctx context.Context, p *Pool) error {
	for p.Continue != "" {
		more, err := call[[]Pool](ctx, c, http.MethodGet, "/v1/pools?"+url.Values{"pool": {p.Name}, "continue": {p.Continue}}.Encode(), nil)
		if err != nil {
			return err
		}
		if p.Continue = ""; len(more) == 1 {
			p.Claims, p.Continue = append(p.Claims, more[0].Claims...), more[0].Continue
		}
	}
	slices.SortFunc(p.Claims, func(a, b Claim) int {
		one, _ := netip.ParseAddr(a.IP) // the daemon has written it
		other, _ := netip.ParseAddr(b.IP)
		return one.Compare(other)
	})
	return nil
}

// Networks returns the networks that the daemon knows.
func (c *Client) Networks(ctx context.Context) ([]Network, error) {
	return call[[]Network](ctx, c, http.MethodGet, "/v1/networks", nil)
}

// Doctor has the daemon examine its node.
func (c *Client) Doctor(ctx context.Context) ([]Finding, error) {
	return call[[]Finding](ctx, c, http.MethodGet, "/v1/doctor", nil)
}

// Leaks compares claims and owners.
func (c *Client) Leaks(ctx context.Context) (*Leak, error) {
	return call[*Leak](ctx, c, http.MethodGet, "/v1/leaks", nil)
}

// Release frees a leaked address; one that has an owner is refused.
func (c *Client) Release(ctx context.Context, pool, ip string) error {
	return c.do(ctx, http.MethodDelete, "/v1/pools/"+url.PathEscape(pool)+"/claims/"+url.PathEscape(ip), nil, nil)
}

// ForceRelease frees an address, too, that a plugin claimed under a runtime without Patchbay: only the caller
// knows that its owner is gone.
func (c *Client) ForceRelease(ctx context.Context, pool, ip string) error {
	return c.do(ctx, http.MethodDelete, "/v1/pools/"+url.PathEscape(pool)+"/claims/"+url.PathEscape(ip)+"?force=true", nil, nil)
}

// RemovePool removes a pool of which no address is in use.
func (c *Client) RemovePool(ctx context.Context, pool string) error {
	return c.do(ctx, http.MethodDelete, "/v1/pools/"+url.PathEscape(pool), nil, nil)
}

// Recovery returns what the node's etcd is, and what would be written back to it.
func (c *Client) Recovery(ctx context.Context) (*Recovery, error) {
	return call[*Recovery](ctx, c, http.MethodGet, "/v1/recovery", nil)
}

// Recover decides what is right after etcd has lost records.
func (c *Client) Recover(ctx context.Context, from string) (*Recovery, error) {
	return call[*Recovery](ctx, c, http.MethodPost, "/v1/recovery", RecoverRequest{From: from})
}

// GiveBack takes a subnet from a node that is gone; it is refused while addresses of it are in use.
func (c *Client) GiveBack(ctx context.Context, pool, cidr string) error {
	return c.do(ctx, http.MethodDelete, subnetPath(pool, cidr), nil, nil)
}

// ForceBack is GiveBack, but gives up the addresses that are in use.
func (c *Client) ForceBack(ctx context.Context, pool, cidr string) error {
	return c.do(ctx, http.MethodDelete, subnetPath(pool, cidr)+"?force=true", nil, nil)
}

func subnetPath(pool, cidr string) string {
	return "/v1/pools/" + url.PathEscape(pool) + "/subnets/" + url.PathEscape(cidr)
}

// Version returns the daemon's version.
func (c *Client) Version(ctx context.Context) (*Version, error) {
	return call[*Version](ctx, c, http.MethodGet, "/v1/version", nil)
}

// Watch calls fn for the attachments there are (type ADDED) and for every change, until the context
// ends or fn returns an error.
func (c *Client) Watch(ctx context.Context, f Filter, fn func(Event) error) error {
	resp, err := c.send(ctx, http.MethodGet, "/v1/attachments?watch=true&"+f.query(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var e Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(errors.New("watch ended: list again"), lines.Err())
}

func (f Filter) query() string {
	return url.Values{"node": {f.Node}, "namespace": {f.Namespace}, "pod": {f.Pod}, "network": {f.Network}}.Encode()
}

// call returns what the daemon answers.
func call[T any](ctx context.Context, c *Client, method, path string, in any) (out T, err error) {
	err = c.do(ctx, method, path, in, &out)
	return out, err
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("the answer of %s is cut short, or not patchbayd's", c.server)
	}
	return nil
}

// noAnswer says why the daemon gave none, as far as it can be known here.
func (c *Client) noAnswer(err error) error {
	why := err.Error()
	var network *url.Error
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, fs.ErrNotExist):
		why = "there is no socket: is it running, and with that listen.api?"
	case errors.Is(err, fs.ErrPermission):
		why = "the socket is root's: run this as root"
	case errors.Is(err, syscall.ECONNREFUSED):
		why = "nobody listens there: is it running?"
	case errors.As(err, &network):
		why = network.Err.Error()
	}
	return &unreachable{fmt.Sprintf("patchbayd does not answer at %s: %s", c.server, why), err}
}

// unreachable is an error whose text is for people and does not have its cause's.
type unreachable struct {
	text  string
	cause error
}

func (u *unreachable) Error() string { return u.text }
func (u *unreachable) Unwrap() error { return u.cause }

func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.noAnswer(err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		p := &Problem{Status: resp.StatusCode, Title: resp.Status}
		_ = json.NewDecoder(resp.Body).Decode(p) // the status line stays when it is no problem document
		return nil, p
	}
	return resp, nil
}
