package vbmc

import "context"

// systemInfo are the System Info Parameters (IPMI 2.0 §22.14a): texts that the
// machine's system, or who runs it, leaves with the BMC.
type systemInfo struct {
	progress byte
	texts    map[byte][]byte // by parameter: encoding, length, text
}

// System Info Parameters (IPMI 2.0 table 22-16c).
const (
	infoFirmware = 1
	infoName     = 2
	infoMax      = 7 // a URL of the hypervisor
	infoBlock    = 16
	infoBytes    = 2 + 255
)

// setSystemInfo is Set System Info Parameters (IPMI 2.0 §22.14a), a block of 16
// bytes at a time.
func (i *ipmi) setSystemInfo(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	p := d[0]
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	st := &i.s.ipmi.info
	switch {
	case p == 0 && d[1]&3 == 1 && st.progress == 1:
		return nil, ccInProgress
	case p == 0:
		st.progress = d[1] & 1
		return nil, nil
	case p > infoMax:
		return nil, ccParameter
	case len(d) < 3 || len(d) > 2+infoBlock:
		return nil, ccLength
	}
	at, data := int(d[1])*infoBlock, d[2:]
	if at+len(data) > infoBytes+infoBlock {
		return nil, ccRange
	}
	if st.texts == nil {
		st.texts = map[byte][]byte{}
	}
	text := st.texts[p]
	if d[1] == 0 {
		text = nil // a new one
	}
	for len(text) < at+infoBlock {
		text = append(text, 0)
	}
	copy(text[at:], data)
	st.texts[p] = text
	return nil, nil
}

// systemInfo is Get System Info Parameters (IPMI 2.0 §22.14b).
func (i *ipmi) systemInfo(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	const revision = 0x11
	p := d[1]
	if p > infoMax {
		return nil, ccParameter
	}
	if d[0]&0x80 != 0 {
		return []byte{revision}, nil
	}
	in, err := i.s.chassis.Info(ctx)
	if err != nil {
		return nil, err
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	if p == 0 {
		return []byte{revision, i.s.ipmi.info.progress}, nil
	}
	text, ok := i.s.ipmi.info.texts[p]
	if !ok {
		t := map[byte]string{infoFirmware: in.BIOSVersion, infoName: in.Name}[p]
		t = t[:min(len(t), 255)]
		text = append([]byte{0, byte(len(t))}, t...)
	}
	at := int(d[2]) * infoBlock
	if at >= len(text) {
		return nil, ccRange
	}
	block := make([]byte, infoBlock)
	copy(block, text[at:])
	return append([]byte{revision, d[2]}, block...), nil
}

// systemName is what the machine's system calls itself, or else another name.
// s.mu is held.
func (s *Server) systemName(other string) string {
	text := s.ipmi.info.texts[infoName]
	if len(text) < 3 || text[0]&0xf > 1 { // ASCII and Latin 1, or UTF-8
		return other
	}
	return string(text[2:min(2+int(text[1]), len(text))])
}
