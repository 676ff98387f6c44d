package gomod

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
)

func TestRecognize(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"MIT License\n\nPermission is hereby granted, free of charge, to any person...\nThe above copyright\nnotice and this permission notice shall be included", "MIT"},
		{"Redistribution and use in source and binary forms, with or without ... Neither the name of Google", "BSD-3-Clause"},
		{"Redistribution and use in source and binary forms, with or without", "BSD-2-Clause"},
		{"                 Apache License\n           Version 2.0, January 2004", "Apache-2.0"},
		{"Mozilla Public License Version 2.0\n" + string(make([]byte, 500)) + "Secondary License means GNU General Public License, Version 2.0, the GNU Lesser General Public License, Version 2.1", "MPL-2.0"},
		{"GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007\n" + string(make([]byte, 500)) + "13. Use with the GNU Affero General Public License version 3", "GPL-3.0"},
		{"GNU LESSER GENERAL PUBLIC LICENSE\nVersion 2.1", "LGPL-2.1"},
		{"All rights reserved", ""},
	} {
		if got := recognize(tt.text); got != tt.want {
			t.Errorf("recognize(%.40q) = %q; want %q", tt.text, got, tt.want)
		}
	}
	// Debian keeps the texts of GNU's and others' licences.
	for file, want := range map[string]string{"GPL-2": "GPL-2.0", "GPL-3": "GPL-3.0", "LGPL-2.1": "LGPL-2.1", "LGPL-3": "LGPL-3.0", "Apache-2.0": "Apache-2.0", "MPL-2.0": "MPL-2.0"} {
		b, err := os.ReadFile(filepath.Join("/usr/share/common-licenses", file))
		if err != nil {
			t.Logf("%v", err)
			continue
		}
		if got := recognize(string(b)); got != want {
			t.Errorf("recognize(%s) = %q; want %q", file, got, want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(runtime.GOROOT(), "LICENSE")); err == nil && recognize(string(b)) != "BSD-3-Clause" {
		t.Errorf("recognize of Go's own licence = %q", recognize(string(b)))
	}
}

func TestLicences(t *testing.T) {
	u := newUpstream(t, true)
	u.add(t, "example.org/free", "v1.0.0", "module example.org/free\n", map[string]string{"LICENSE.txt": "Permission is hereby granted, free of charge ... The above copyright notice and this permission notice", "sub/LICENSE": "Apache License Version 2.0"})
	s := newSide(t, map[string]string{"GOSUMDB": u.key, "GOPROXY": u.URL})
	if _, _, err := s.Mirror(t, airgap.Mirror{Packages: []string{"example.org/free@v1.0.0", "example.org/other@v1.0.0"}}); err != nil {
		t.Fatal(err)
	}
	of, err := s.Store.Licences(t.Context(), s.Lock, s.Formats, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range s.Lock.Mirrors[0].Items {
		if it.Kind != airgap.KindPackage {
			continue
		}
		want := map[string][]string{"example.org/free": {"MIT"}}[it.Name]
		if got := of(it); !slices.Equal(got, want) {
			t.Errorf("licences of %s = %q; want %q", it.Name, got, want)
		}
	}
}
