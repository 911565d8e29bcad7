// Command httpcall is the floor of the shim: a Go program that makes one HTTP call on a unix socket.
package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
)

func main() {
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", os.Args[1])
	}}}
	resp, err := c.Post("http://patchbay/cni/v1/patchbay", "application/json", os.Stdin)
	if err != nil {
		os.Exit(1)
	}
	_, _ = io.Copy(os.Stdout, resp.Body)
}
