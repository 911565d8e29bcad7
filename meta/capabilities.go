package meta

// A capability is a request of a selection element as a capability argument.
type capability struct {
	key, name string
	value     any
}

// capabilities are the element's requests as capability arguments (CNI CONVENTIONS.md).
func (s *Selection) capabilities() []capability {
	var cs []capability
	if len(s.IPs) > 0 {
		cs = append(cs, capability{"ips", "ips", s.IPs})
	}
	if s.MAC != "" {
		cs = append(cs, capability{"mac", "mac", s.MAC})
	}
	if s.InfinibandGUID != "" {
		cs = append(cs, capability{"infiniband-guid", "infinibandGUID", s.InfinibandGUID})
	}
	if len(s.PortMappings) > 0 {
		cs = append(cs, capability{"portMappings", "portMappings", s.PortMappings})
	}
	if s.Bandwidth != nil {
		cs = append(cs, capability{"bandwidth", "bandwidth", s.Bandwidth})
	}
	if s.DeviceID != "" {
		cs = append(cs, capability{"deviceID", "deviceID", s.DeviceID})
	}
	return cs
}

// inArgs reports whether a request is handed to plugins in CNI_ARGS besides its capability: IP and
// MAC, which static, host-local, macvlan and others honour (CNI CONVENTIONS.md).
func inArgs(capability string) bool { return capability == "ips" || capability == "mac" }
