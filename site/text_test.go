package site

import (
	"encoding/json"
	"testing"
)

func TestParseBytes(t *testing.T) {
	tests := []struct {
		in   string
		want Bytes
		text string // "" = must fail
	}{
		{"512MiB", 512 << 20, "512MiB"},
		{"1.92TB", 1920000000000, "1.92TB"},
		{"64G", 64 << 30, "64GiB"},
		{"64g", 64 << 30, "64GiB"},
		{"64 GiB", 64 << 30, "64GiB"},
		{"480GB", 480e9, "480GB"},
		{"2TiB", 2 << 40, "2TiB"},
		{"1.5KiB", 1536, "1536B"},
		{"1000", 1000, "1KB"},
		{"1001", 1001, "1001B"},
		{"0", 0, "0"},
		{"8191PiB", 8191 << 50, "8191PiB"},
		{"8192PiB", 0, ""},
		{"-1", 0, ""},
		{"1e3", 0, ""},
		{"GiB", 0, ""},
		{"", 0, ""},
		{"1/2G", 0, ""},
		{"64XB", 0, ""},
		{"1.2.3G", 0, ""},
	}
	for _, tt := range tests {
		got, err := ParseBytes(tt.in)
		if (err == nil) != (tt.text != "") || got != tt.want {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d, text %q", tt.in, got, err, tt.want, tt.text)
		}
		if err == nil && got.String() != tt.text {
			t.Errorf("Bytes(%d).String() = %q; want %q", got, got.String(), tt.text)
		}
	}
	var b Bytes
	if err := json.Unmarshal([]byte(`"3GiB"`), &b); err != nil || b != 3<<30 {
		t.Errorf("json of \"3GiB\" = %d, %v; want %d", b, err, 3<<30)
	}
	if err := json.Unmarshal([]byte(`4096`), &b); err != nil || b != 4096 {
		t.Errorf("json of 4096 = %d, %v; want 4096", b, err)
	}
}

func FuzzParseBytes(f *testing.F) {
	for _, s := range []string{"1.92TB", "64G", "0", "9223372036854775807", "1.001KB", ".5K", "..", "7PiB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := ParseBytes(s)
		if err != nil {
			return
		}
		if b < 0 {
			t.Errorf("ParseBytes(%q) = %d; want no negative size", s, b)
		}
		if back, err := ParseBytes(b.String()); err != nil || back != b {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d, as %q gave", b.String(), back, err, b, s)
		}
	})
}

func TestMAC(t *testing.T) {
	for _, in := range []string{"52:54:00:AA:bb:cc", "52-54-00-aa-bb-cc"} {
		m, err := ParseMAC(in)
		if err != nil || m.String() != "52:54:00:aa:bb:cc" || m.HardwareAddr().String() != m.String() {
			t.Errorf("ParseMAC(%q) = %s, %v; want 52:54:00:aa:bb:cc", in, m, err)
		}
	}
	for _, in := range []string{"", "52:54:00:aa:bb", "52:54:00:aa:bb:cc:dd:ee", "52:54:00:aa:bb:cg"} {
		if m, err := ParseMAC(in); err == nil {
			t.Errorf("ParseMAC(%q) = %s; want an error", in, m)
		}
	}
	type doc struct {
		M map[MAC]int
		Z MAC
	}
	j, err := json.Marshal(doc{M: map[MAC]int{{2, 0, 0, 0, 0, 1}: 1}})
	if err != nil || string(j) != `{"M":{"02:00:00:00:00:01":1},"Z":""}` {
		t.Errorf("json of MACs = %s, %v", j, err)
	}
	var back doc
	if err := json.Unmarshal(j, &back); err != nil || back.M[MAC{2, 0, 0, 0, 0, 1}] != 1 || !back.Z.IsZero() {
		t.Errorf("json back = %+v, %v", back, err)
	}
}
