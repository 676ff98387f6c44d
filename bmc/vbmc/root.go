package vbmc

// routes are all resources of the service.
func (s *Server) routes() []*resource {
	if s.tree != nil {
		return s.twinRoutes()
	}
	rs := s.rootRoutes()
	rs = append(rs, s.sessionRoutes()...)
	rs = append(rs, s.accountRoutes()...)
	rs = append(rs, s.systemRoutes()...)
	rs = append(rs, s.hardwareRoutes()...)
	rs = append(rs, s.chassisRoutes()...)
	rs = append(rs, s.managerRoutes()...)
	rs = append(rs, s.sensorRoutes()...)
	rs = append(rs, s.biosRoutes()...)
	rs = append(rs, s.registryRoutes()...)
	rs = append(rs, s.schemaRoutes()...)
	rs = append(rs, s.networkRoutes()...)
	rs = append(rs, s.mediaRoutes()...)
	rs = append(rs, s.secureBootRoutes()...)
	rs = append(rs, s.bootOptionRoutes()...)
	rs = append(rs, s.volumeRoutes()...)
	rs = append(rs, s.controlRoutes()...)
	rs = append(rs, s.taskRoutes()...)
	rs = append(rs, s.updateRoutes()...)
	rs = append(rs, s.eventRoutes()...)
	rs = append(rs, s.telemetryRoutes()...)
	rs = append(rs, s.certificateRoutes()...)
	return rs
}

// rootRoutes are what can be read without a login (DSP0266 §6.2, §8.3, §8.4).
func (s *Server) rootRoutes() []*resource {
	return []*resource{
		{pattern: "/redfish", open: true, get: func(*call) (obj, error) { return obj{"v1": root + "/"}, nil }},
		{pattern: root, open: true, get: s.serviceRoot},
		{pattern: root + "/odata", open: true, get: s.odata},
		{pattern: openAPIPath, open: true, raw: func(*call) (string, string) { return "application/yaml;charset=utf-8", s.openAPI() }},
		{pattern: root + "/$metadata", open: true, raw: func(*call) (string, string) { return "application/xml;charset=utf-8", metadata() }},
	}
}

const rootType = "#ServiceRoot.v1_17_0.ServiceRoot"

// services are the members of the service root, with their schemas.
var services = []struct{ name, path, schema string }{
	{"Systems", root + "/Systems", "ComputerSystemCollection"},
	{"Chassis", root + "/Chassis", "ChassisCollection"},
	{"Managers", root + "/Managers", "ManagerCollection"},
	{"SessionService", root + "/SessionService", "SessionService"},
	{"AccountService", root + "/AccountService", "AccountService"},
	{"UpdateService", updatePath, "UpdateService"},
	{"Tasks", root + "/TaskService", "TaskService"},
	{"EventService", eventsPath, "EventService"},
	{"TelemetryService", telemetryPath, "TelemetryService"},
	{"CertificateService", certificatesPath, "CertificateService"},
	{"Registries", registriesPath, "MessageRegistryFileCollection"},
	{"JsonSchemas", schemasPath, "JsonSchemaFileCollection"},
}

func (s *Server) serviceRoot(c *call) (obj, error) {
	in, err := s.info(c)
	if err != nil {
		return nil, err
	}
	o := obj{
		"@odata.id": root + "/", "@odata.type": rootType, "Id": "RootService", "Name": "Root Service",
		"RedfishVersion": "1.18.0", "UUID": nullable(in.UUID), "Vendor": "fettle", "Product": "fettle virtual BMC",
		"Links":                     obj{"Sessions": link(sessionsPath), "ManagerProvidingService": link(managerPath)},
		"ProtocolFeaturesSupported": features(rootType),
	}
	for _, v := range services {
		if res, _ := s.find(v.path); res != nil {
			o[v.name] = link(v.path)
		}
	}
	return o, nil
}

// odata is the OData service document (DSP0266 §8.4).
func (s *Server) odata(*call) (obj, error) {
	value := []obj{{"name": "Service", "kind": "Singleton", "url": root + "/"}, {"name": "Sessions", "kind": "Singleton", "url": sessionsPath}}
	for _, v := range services {
		if res, _ := s.find(v.path); res == nil {
			continue
		}
		value = append(value, obj{"name": v.name, "kind": "Singleton", "url": v.path})
	}
	return obj{"@odata.context": root + "/$metadata", "value": value}, nil
}
