package vbmc

// registryRoutes are the registries (DSP0266 §9.5.11): of the BIOS attributes,
// of this service's own messages, and, by reference, DMTF's Base.
func (s *Server) registryRoutes() []*resource {
	file := func(id, reg string, loc obj) *resource {
		path := registriesPath + "/" + id
		return &resource{pattern: path, get: func(*call) (obj, error) {
			return obj{"@odata.id": path, "@odata.type": "#MessageRegistryFile.v1_1_5.MessageRegistryFile", "Id": id, "Name": id + " Registry File",
				"Registry": reg, "Languages": []string{"en"}, "Location": []obj{loc}}, nil
		}}
	}
	own := registriesPath + "/FettleVirtualBMC.1.0.0.json"
	return []*resource{
		{pattern: registriesPath, get: func(*call) (obj, error) {
			return collection(registriesPath, "MessageRegistryFileCollection", "Registry File Collection",
				registriesPath+"/"+biosRegistry, registriesPath+"/Base.1.18.0", registriesPath+"/FettleVirtualBMC.1.0.0"), nil
		}},
		file(biosRegistry, biosRegistry, obj{"Language": "en", "Uri": registriesPath + "/" + biosRegistry + ".json"}),
		{pattern: registriesPath + "/" + biosRegistry + ".json", get: s.registryResource},
		file("Base.1.18.0", "Base.1.18", obj{"Language": "en", "PublicationUri": "https://redfish.dmtf.org/registries/Base.1.18.0.json"}),
		file("FettleVirtualBMC.1.0.0", eventRegistry, obj{"Language": "en", "Uri": own}),
		{pattern: own, get: func(*call) (obj, error) {
			return obj{"@odata.id": own, "@odata.type": "#MessageRegistry.v1_6_3.MessageRegistry", "Id": "FettleVirtualBMC.1.0.0", "Name": "fettle virtual BMC",
				"Description": "Entries of this virtual BMC's logs.", "Language": "en", "OwningEntity": "fettle", "RegistryPrefix": "FettleVirtualBMC", "RegistryVersion": "1.0.0",
				"Messages": obj{"LogEntryAdded": obj{"Description": "An entry of a log.", "Message": "%1", "NumberOfArgs": 1, "ParamTypes": []string{"string"},
					"MessageSeverity": "OK", "Severity": "OK", "Resolution": "None."}}}, nil
		}},
	}
}
