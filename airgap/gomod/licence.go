package gomod

import (
	"archive/zip"
	"context"
	"io"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
)

const maxLicence = 1 << 20

// Licences implements airgap.Licensed: a module has no field for it, so the
// text of LICENSE or COPYING in its root is recognized, when it is one of those
// that nearly all modules have.
func (*Format) Licences(ctx context.Context, it airgap.Item, r io.Reader) ([]string, error) {
	rs, ok := r.(io.ReadSeeker)
	if !ok || it.Kind != airgap.KindPackage {
		return nil, nil
	}
	size, err := rs.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	z, err := zip.NewReader(airgap.ReaderAt(rs), size)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, nil // not readable: not known
	}
	var out []string
	for _, f := range z.File {
		name, ok := strings.CutPrefix(f.Name, it.Name+"@"+it.Version+"/")
		upper := strings.ToUpper(name)
		if !ok || strings.Contains(name, "/") || !strings.HasPrefix(upper, "LICEN") && !strings.HasPrefix(upper, "COPYING") && upper != "UNLICENSE" {
			continue
		}
		if text, err := readSmall(f); err == nil {
			if l := recognize(text); l != "" {
				out = append(out, l)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func readSmall(f *zip.File) (string, error) {
	rc, err := f.Open()
	if err != nil {
		return "", err
	}
	defer rc.Close()
	b, err := io.ReadAll(io.LimitReader(rc, maxLicence))
	return string(b), err
}

// recognize finds a licence by phrases that stand in its text, and not in
// those of others.
func recognize(text string) string {
	t := strings.ToLower(strings.Join(strings.Fields(text), " "))
	has := func(parts ...string) bool {
		for _, p := range parts {
			if !strings.Contains(t, p) {
				return false
			}
		}
		return true
	}
	// GNU's licences name each other further down, and others name them.
	whole := t
	t = t[:min(len(t), 400)]
	switch {
	case has("gnu affero general public license", "version 3"):
		return "AGPL-3.0"
	case has("gnu lesser general public license", "version 3"):
		return "LGPL-3.0"
	case has("gnu lesser general public license", "version 2.1"):
		return "LGPL-2.1"
	case has("gnu general public license", "version 3"):
		return "GPL-3.0"
	case has("gnu general public license", "version 2"):
		return "GPL-2.0"
	}
	t = whole
	switch {
	case has("mozilla public license", "2.0"):
		return "MPL-2.0"
	case has("apache license", "version 2.0"):
		return "Apache-2.0"
	case has("redistribution and use in source and binary forms", "neither the name"), has("redistribution and use in source and binary forms", "may not be used to endorse"):
		return "BSD-3-Clause"
	case has("redistribution and use in source and binary forms"):
		return "BSD-2-Clause"
	case has("permission is hereby granted, free of charge", "the above copyright notice and this permission notice"):
		return "MIT"
	case has("permission to use, copy, modify, and", "distribute this software for any purpose with or without fee"):
		return "ISC"
	case has("this is free and unencumbered software released into the public domain"):
		return "Unlicense"
	}
	return ""
}
