// Package cniresult reads the CNI results of plugins, which may say anything, and writes ours in the version that
// is asked for.
package cniresult

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/patchbay-cni/patchbay/internal/explain"
)

// Parse reads a result in whatever version, its own or else the given one, and returns it in 1.1.0's
// form. An empty result, as meta plugins give, is an empty result (C48).
func Parse(version string, b []byte) (*types100.Result, error) {
	if len(bytes.TrimSpace(b)) == 0 || string(bytes.TrimSpace(b)) == "{}" {
		return &types100.Result{CNIVersion: types100.ImplementedSpecVersion}, nil
	}
	var head struct {
		CNIVersion string `json:"cniVersion"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "result is not JSON", explain.JSON(b, err))
	}
	if head.CNIVersion != "" {
		version = head.CNIVersion
	}
	unreadable := func(err error) error {
		return types.NewError(types.ErrDecodingFailure, "result can't be read", explain.JSON(b, err))
	}
	var all any
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, unreadable(err)
	}
	if holdsNull(all) { // over which the library's conversion panics
		return nil, unreadable(errors.New("an entry of a list in it is null"))
	}
	generic, err := create.Create(version, b)
	if err != nil {
		return nil, unreadable(err)
	}
	res, err := types100.NewResultFromResult(generic)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "result can't be converted", explain.JSON(b, err))
	}
	if err := Check(res); err != nil {
		return nil, unreadable(err)
	}
	return res, nil
}

// As returns a result in a version. The library's conversion passes on what 1.1.0 added, which older versions
// do not have: of interfaces all but name, mac and sandbox, of routes all but dst and gw.
func As(res *types100.Result, version string) (types.Result, error) {
	out := *res
	out.CNIVersion = types100.ImplementedSpecVersion
	if version != types100.ImplementedSpecVersion {
		out.Interfaces, out.Routes = nil, nil
		for _, i := range res.Interfaces {
			out.Interfaces = append(out.Interfaces, &types100.Interface{Name: i.Name, Mac: i.Mac, Sandbox: i.Sandbox})
		}
		for _, r := range res.Routes {
			out.Routes = append(out.Routes, &types.Route{Dst: r.Dst, GW: r.GW})
		}
	}
	return out.GetAsVersion(version)
}

// holdsNull reports whether an entry of any list is null.
func holdsNull(v any) bool {
	switch v := v.(type) {
	case []any:
		return slices.ContainsFunc(v, func(e any) bool { return e == nil || holdsNull(e) })
	case map[string]any:
		for _, e := range v {
			if holdsNull(e) {
				return true
			}
		}
	}
	return false
}

// Check says which entry of a result is null, or lacks what makes it one: nobody could use it, nor read
// it back once it is written.
func Check(r *types100.Result) error {
	for i, nic := range r.Interfaces {
		if nic == nil {
			return fmt.Errorf("entry %d of its interfaces is null", i+1)
		}
	}
	for i, ip := range r.IPs {
		if ip == nil || ip.Address.IP == nil {
			return fmt.Errorf("entry %d of its ips has no address", i+1)
		}
	}
	for i, route := range r.Routes {
		if route == nil || route.Dst.IP == nil {
			return fmt.Errorf("entry %d of its routes has no dst", i+1)
		}
	}
	return nil
}
