package vbmc

const privilegePath = root + "/AccountService/PrivilegeMap"

// entities are the resource types of the privilege registry, each with a
// resource of this service that has it.
var entities = []struct{ name, pattern string }{
	{"AccountService", root + "/AccountService"}, {"Bios", biosPath}, {"Certificate", httpsCert}, {"CertificateService", certificatesPath},
	{"Chassis", chassisPath}, {"ChassisCollection", root + "/Chassis"}, {"ComputerSystem", systemPath}, {"ComputerSystemCollection", root + "/Systems"},
	{"Control", limitPath}, {"EnvironmentMetrics", chassisPath + "/EnvironmentMetrics"},
	{"EventDestination", subscriptionsPath + "/{id}"}, {"EventDestinationCollection", subscriptionsPath}, {"EventService", eventsPath},
	{"Manager", managerPath}, {"ManagerAccount", accountsPath + "/{account}"}, {"ManagerAccountCollection", accountsPath},
	{"ManagerCollection", root + "/Managers"}, {"ManagerNetworkProtocol", protocolPath}, {"Role", rolesPath + "/{role}"}, {"RoleCollection", rolesPath},
	{"SecureBoot", secureBootPath}, {"SecureBootDatabase", secureBootPath + "/SecureBootDatabases/{db}"}, {"ServiceRoot", root}, {"Session", sessionsPath + "/{session}"}, {"SessionCollection", sessionsPath},
	{"SessionService", root + "/SessionService"}, {"Task", tasksPath + "/{task}"}, {"TaskService", root + "/TaskService"},
	{"TelemetryService", telemetryPath}, {"UpdateService", updatePath}, {"VirtualMedia", managerPath + "/VirtualMedia/" + mediaSlot},
	{"Volume", volumesPath + "/{id}"}, {"VolumeCollection", volumesPath},
}

// privilegeRegistry is the PrivilegeRegistry (DSP0268): who may do what, as the
// service's own routes have it.
func (s *Server) privilegeRegistry(c *call) (obj, error) {
	mappings := []obj{}
	for _, e := range entities {
		for _, r := range s.table() {
			if r.pattern == e.pattern {
				mappings = append(mappings, r.mapping(e.name))
				break
			}
		}
	}
	return obj{"@odata.id": c.path, "@odata.type": "#PrivilegeRegistry.v1_1_5.PrivilegeRegistry", "Id": "PrivilegeMap", "Name": "Privilege Map",
		"PrivilegesUsed": []string{"NoAuth", privLogin, privManager, privUsers, privComponents, privSelf}, "OEMPrivilegesUsed": []string{}, "Mappings": mappings}, nil
}

// mapping is an entry of the registry. Any one of the listed sets suffices.
func (r *resource) mapping(entity string) obj {
	oneOf := func(sets ...string) []obj {
		out := []obj{}
		for _, p := range sets {
			out = append(out, obj{"Privilege": []string{p}})
		}
		return out
	}
	get, change := oneOf(privLogin), oneOf(privLogin)
	if r.open {
		get = oneOf("NoAuth")
	}
	if r.priv != "" {
		change = oneOf(r.priv)
	}
	post, patch, del := change, change, change
	switch entity {
	case "ManagerAccount":
		get = oneOf(privManager, privUsers, privSelf)
		patch = oneOf(privUsers, privSelf)
	case "Session":
		del = oneOf(privManager, privSelf)
	case "SessionCollection":
		post = oneOf("NoAuth")
	}
	o := obj{"Entity": entity, "OperationMap": obj{"GET": get, "HEAD": get, "PATCH": patch, "POST": post, "PUT": patch, "DELETE": del}}
	if entity == "ManagerAccount" { // with ConfigureSelf, the own password alone
		users := oneOf(privUsers)
		o["PropertyOverrides"] = []obj{{"Targets": []string{"UserName", "RoleId", "Enabled", "Locked", "PasswordChangeRequired"},
			"OperationMap": obj{"GET": get, "PATCH": users}}}
	}
	return o
}
