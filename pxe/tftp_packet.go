package pxe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
)

// TFTP packets (RFC 1350 §5) and options (RFC 2347).
const (
	tftpRead  = 1
	tftpWrite = 2
	tftpData  = 3
	tftpAck   = 4
	tftpError = 5
	tftpOack  = 6

	tftpErrUndefined = 0
	tftpErrNotFound  = 1
	tftpErrAccess    = 2
	tftpErrIllegal   = 4
	tftpErrOption    = 8 // RFC 2347 §4

	tftpMaxRequest = 1024 // RFC 2347 §2 allows 512; firmware pads
	tftpDefBlksize = 512
	tftpMinBlksize = 8     // RFC 2348
	tftpMaxBlksize = 65464 // RFC 2348
	tftpMaxWindow  = 64    // RFC 7440 allows 65535; EDK2 asks 4
	tftpMaxBurst   = 64 << 10
	tftpHeaders    = 32 // IP, UDP and TFTP before the data
)

// tftpRequest is a read request.
type tftpRequest struct {
	name     string // as the wire had it
	tsize    bool
	blksize  int // 0: not asked
	timeout  int // seconds, 0: not asked
	window   int // 0: not asked
	netascii bool
}

// tftpRefusal is an ERROR packet to be sent.
type tftpRefusal struct {
	code uint16
	text string
}

func (e *tftpRefusal) Error() string { return e.text }

var (
	errNotTFTP  = errors.New("not a TFTP request")
	errRepeated = errors.New("a request that is being answered, or too many at once")
	// errUnanswered is of requests that were answered to nobody.
	errUnanswered = errors.New("the client never answered, and others wanted its place")
)

// parseTFTP reads a request (RFC 1350 §5, RFC 2347 §2). A *tftpRefusal is
// owed to the client; any other error is dropped in silence.
func parseTFTP(b []byte) (tftpRequest, error) {
	var q tftpRequest
	if len(b) < 4 || len(b) > tftpMaxRequest {
		return q, errNotTFTP
	}
	switch binary.BigEndian.Uint16(b) {
	case tftpRead:
	case tftpWrite:
		return q, &tftpRefusal{tftpErrAccess, "this server is read-only"}
	default:
		return q, errNotTFTP
	}
	name, rest, ok := bytes.Cut(b[2:], []byte{0})
	if !ok || len(name) == 0 {
		return q, &tftpRefusal{tftpErrIllegal, "malformed request: no file name"}
	}
	q.name = string(name)
	mode, rest, ok := bytes.Cut(rest, []byte{0})
	if !ok {
		return q, &tftpRefusal{tftpErrIllegal, "malformed request: no mode"}
	}
	switch strings.ToLower(string(mode)) {
	case "octet":
	case "netascii":
		// Boot files are not text: sent as they are.
		q.netascii = true
	default:
		return q, &tftpRefusal{tftpErrIllegal, "unknown mode: use octet"}
	}
	// Options come in pairs; what is malformed or unknown is not acknowledged
	// (RFC 2347 §3), and zeros that pad the datagram end them (FIELD-NOTES
	// item 17).
	for {
		key, r, ok := bytes.Cut(rest, []byte{0})
		if !ok || len(key) == 0 {
			return q, nil
		}
		value, r, ok := bytes.Cut(r, []byte{0})
		if !ok {
			return q, nil
		}
		rest = r
		n, err := strconv.Atoi(string(value))
		if err != nil || n < 0 {
			continue
		}
		switch strings.ToLower(string(key)) {
		case "tsize": // RFC 2349
			q.tsize = true
		case "blksize": // RFC 2348
			if n >= tftpMinBlksize {
				q.blksize = min(n, tftpMaxBlksize)
			}
		case "timeout": // RFC 2349
			if n >= 1 && n <= 255 {
				q.timeout = n
			}
		case "windowsize": // RFC 7440
			if n >= 1 && n <= 65535 {
				q.window = min(n, tftpMaxWindow)
			}
		}
	}
}

// negotiate clamps the options to the network and encodes the OACK; nil if
// there is nothing to acknowledge.
func (q *tftpRequest) negotiate(mtu int, size int64) []byte {
	b := []byte{0, tftpOack}
	opt := func(key string, v int64) {
		b = append(b, key...)
		b = append(b, 0)
		b = strconv.AppendInt(b, v, 10)
		b = append(b, 0)
	}
	if mtu <= 0 {
		mtu = 1500
	}
	if q.blksize > 0 {
		// Fragments are lost together, and many boot ROMs cannot join them.
		q.blksize = min(q.blksize, max(mtu-tftpHeaders, tftpDefBlksize))
		opt("blksize", int64(q.blksize))
	}
	if q.tsize {
		opt("tsize", size)
	}
	if q.timeout > 0 {
		opt("timeout", int64(q.timeout))
	}
	if q.window > 0 {
		// A burst that a receive buffer cannot hold loses its end every time.
		q.window = min(q.window, max(tftpMaxBurst/max(q.blksize, tftpDefBlksize), 1))
		opt("windowsize", int64(q.window))
	}
	if len(b) == 2 {
		return nil
	}
	return b
}

// encodeTFTPError is an ERROR packet.
func encodeTFTPError(code uint16, text string) []byte {
	b := []byte{0, tftpError, byte(code >> 8), byte(code)}
	return append(append(b, printable([]byte(text))...), 0)
}
