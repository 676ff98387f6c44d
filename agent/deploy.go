package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"

	"github.com/fettle-dev/fettle/agent/wire"
)

// swapLabel is the label of the swap partition, by which fstab names it.
const swapLabel = "fettle-swap"

const mib = 1 << 20

// report tells the server how a deployment goes on; text is one sentence.
type report func(step wire.Step, text string, done, total int64)

// deployment is one image going to one disk, or to two that mirror each other.
//
// A disk has no partition table from the first write to the last: what is
// before the first partition (boot code and table) is kept in memory and
// written when all else is verified, seeded and durable. So a machine that
// loses power in between has nothing that boots, and no old table either.
type deployment struct {
	src     *source
	task    *wire.Deploy
	targets []*target // one or two
	fs      FileSystems
	report  report
	log     *slog.Logger
	workers int

	uefi    bool // how the machine boots
	layout  layout
	patches []patch // see fitSectors
	dec     *zstd.Decoder

	lastSector [gptSector]byte // see hold

	// sums are XXH64 of each chunk, taken where its SHA-256 had just been
	// verified: enough to find what a disk gets wrong, and a hundred times
	// faster than SHA-256 where that has no instructions (AGENT.md).
	sums []uint64
}

// target is a disk that the image goes to.
type target struct {
	info  wire.Disk
	disk  Disk
	table *table
}

func (k *target) String() string { return fmt.Sprintf("%s (serial %s)", k.info.Name, k.info.Serial) }

func (k *target) fail(doing string, off int64, err error) error {
	return fmt.Errorf("%s disk %s at byte %d: %w; look at the disk's health and the kernel's log, replace it if this happens again", doing, k, off, err)
}

// deploy does a whole task.
func deploy(ctx context.Context, task *wire.Deploy, src *source, disks Disks, fs FileSystems, uefi bool, log *slog.Logger, rep report) (err error) {
	if err := checkTask(task); err != nil {
		return err
	}
	serials := []string{task.DiskSerial}
	if task.MirrorSerial != "" {
		serials = append(serials, task.MirrorSerial)
	}
	rep(wire.StepPartition, "finding disk "+strings.Join(serials, " and "), 0, 0)
	list, err := disks.List()
	if err != nil {
		return fmt.Errorf("listing the disks: %w", err)
	}
	d := &deployment{src: src, task: task, fs: fs, uefi: uefi, report: rep, log: log, workers: min(max(2, runtime.NumCPU()), 8)}
	for _, serial := range serials {
		info, err := chooseDisk(list, serial)
		if err != nil {
			return err
		}
		d.targets = append(d.targets, &target{info: info})
	}
	if err := src.fetchIndex(ctx, task.IndexURL, task.IndexDigest); err != nil {
		return err
	}
	d.sums = make([]uint64, len(src.idx.Chunks))
	defer func() {
		for _, k := range d.targets {
			if k.disk == nil {
				continue
			}
			if cerr := k.disk.Close(); err == nil && cerr != nil {
				err = fmt.Errorf("closing disk %s: %w", k.info.Name, cerr)
			}
		}
	}()
	for _, k := range d.targets {
		if k.disk, err = disks.Open(k.info); err != nil {
			return fmt.Errorf("opening disk %s: %w", k, err)
		}
	}
	d.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(uint64(src.idx.ChunkSize)+mib), zstd.WithDecoderMaxWindow(uint64(max(src.idx.ChunkSize, 8*mib))))
	if err != nil {
		return err
	}
	defer d.dec.Close()
	return d.run(ctx)
}

// checkTask refuses what could only fail half-way.
func checkTask(t *wire.Deploy) error {
	if err := checkKernelArgs(t.KernelArgs); err != nil {
		return err
	}
	if t.MirrorSerial != "" && t.MirrorSerial == t.DiskSerial {
		return fmt.Errorf("the task wants disk %s to mirror itself: correct the machine's disks in the site file", t.DiskSerial)
	}
	if t.RootBytes < 0 || t.SwapBytes < 0 {
		return fmt.Errorf("the task wants a root of %d and swap of %d bytes: correct the profile's layout", t.RootBytes, t.SwapBytes)
	}
	for _, f := range t.Files {
		if err := checkSeedPath(f.Path); err != nil {
			return err
		}
	}
	return nil
}

func (d *deployment) run(ctx context.Context) error {
	if err := d.plan(ctx); err != nil {
		return err
	}
	start := time.Now()
	for _, stage := range []struct {
		name string
		f    func(context.Context) error
	}{{"wipe", d.wipe}, {"write", d.write}, {"verify", d.verify}, {"seed", d.seed}, {"finish", d.finish}} {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := stage.f(ctx); err != nil {
			return err
		}
		d.log.Info("stage done", "stage", stage.name, "seconds", time.Since(start).Seconds())
	}
	return nil
}

// plan checks, before anything on a disk is touched, that the image fits.
func (d *deployment) plan(ctx context.Context) error {
	idx := d.src.idx
	if err := d.checkSectors(); err != nil {
		return err
	}
	for _, k := range d.targets {
		if k.disk.Size() < idx.Size {
			return fmt.Errorf("disk %s is too small: it has %s, the image needs %s: choose another disk or a smaller image", k, size(k.disk.Size()), size(idx.Size))
		}
	}
	if idx.Chunks[0].Zero {
		return errors.New("the image begins with zeros, so it has no partition table: build it again")
	}
	frame, err := d.src.one(ctx, 0)
	if err != nil {
		return err
	}
	raw := alignedBuffer(idx.ChunkSize)
	if raw, err = d.decode(ctx, 0, frame, raw); err != nil {
		return err
	}
	t, err := parseTable(raw, idx.Size)
	if err != nil {
		return err
	}
	if err := d.fitSectors(ctx, t); err != nil {
		return err
	}
	return d.fitDisks(t)
}

// fitDisks makes each disk's table. Partitions are alike on both disks of a
// mirror, so the smaller one says how large they are.
func (d *deployment) fitDisks(t *table) (err error) {
	smallest := d.targets[0].disk.Size()
	for _, k := range d.targets {
		smallest = min(smallest, k.disk.Size())
	}
	before := t.partition(d.src.idx.RootPart).Bytes
	if d.layout, err = t.grow(smallest, d.src.idx.RootPart, d.task.RootBytes, d.task.SwapBytes); err != nil {
		return err
	}
	if room := t.partition(d.layout.root).Bytes - before; len(d.targets) > 1 && room < gptAlign {
		return fmt.Errorf("the disk is too small: the root partition of a mirror must be at least 1 MiB larger than the image's %s: choose other disks or a smaller image", size(before))
	}
	for i, k := range d.targets {
		k.table = t
		if i > 0 {
			k.table = t.twin()
		}
		k.table.fit(k.disk.Size())
	}
	return nil
}

// name names the disks to people.
func (d *deployment) name() string {
	if len(d.targets) == 2 {
		return fmt.Sprintf("%s and its mirror %s", d.targets[0], d.targets[1])
	}
	return d.targets[0].String()
}

// wipe makes whatever was on the disks unbootable.
func (d *deployment) wipe(context.Context) error {
	d.report(wire.StepPartition, "wiping the old partition table of disk "+d.name(), 0, 0)
	for _, k := range d.targets {
		if err := d.wipeDisk(k); err != nil {
			return err
		}
	}
	return nil
}

func (d *deployment) wipeDisk(k *target) error {
	if _, err := k.disk.Partitions(nil); err != nil {
		return fmt.Errorf("forgetting the old partitions of disk %s: %w", k, err)
	}
	end := k.disk.Size()
	n := min(mib, end)
	places := []int64{0, end - n}
	for _, p := range d.layout.parts {
		// An array that was there has its metadata at its members' ends.
		if at := p.End() - mib; (p.Number == d.layout.root || p.Number == d.layout.swap) && at >= d.src.idx.Size {
			places = append(places, at)
		}
	}
	ends := func() error {
		for _, off := range places {
			if err := k.disk.Zero(off, n); err != nil {
				return k.fail("wiping", off, err)
			}
		}
		if err := k.disk.Sync(); err != nil {
			return k.fail("wiping", 0, err)
		}
		return nil
	}
	if err := ends(); err != nil {
		return err
	}
	if err := k.disk.Discard(); err != nil {
		d.log.Info("the disk does not discard", "disk", k.info.Name, "error", err)
	}
	return ends() // a discarded sector may read as anything
}

type frame struct {
	i    int
	data []byte
}

// write streams the image: one fetcher, several workers that decompress,
// verify and only then write.
func (d *deployment) write(ctx context.Context) error {
	idx := d.src.idx
	total := idx.NonZero()
	d.report(wire.StepWrite, "writing the image to disk "+d.name(), 0, total)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	frames := make(chan frame, d.workers)
	progress := d.meter(wire.StepWrite, total)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(frames)
		err := d.src.stream(ctx, 0, func(i int, b []byte) error {
			select {
			case frames <- frame{i, b}:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
		if err != nil {
			cancel(err)
		}
	})
	wg.Go(func() {
		if err := d.zero(ctx); err != nil {
			cancel(err)
		}
	})
	for range d.workers {
		wg.Go(func() {
			buf := alignedBuffer(idx.ChunkSize)
			for f := range frames {
				if ctx.Err() != nil {
					return
				}
				raw, err := d.decode(ctx, f.i, f.data, buf)
				if err != nil {
					cancel(err)
					return
				}
				off := int64(f.i) * idx.ChunkSize
				d.hold(f.i, raw)
				for _, k := range d.targets {
					if _, err := k.disk.WriteAt(raw, off); err != nil {
						cancel(k.fail("writing to", off, err))
						return
					}
				}
				progress(int64(len(raw)))
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, k := range d.targets {
		if err := k.disk.Sync(); err != nil {
			return k.fail("flushing", 0, err)
		}
	}
	return nil
}

// zero makes the image's zero chunks zeros on the disk, in runs, so that
// nothing old shows through.
func (d *deployment) zero(ctx context.Context) error {
	idx := d.src.idx
	for i := 0; i < len(idx.Chunks); {
		if !idx.Chunks[i].Zero {
			i++
			continue
		}
		from := i
		for i < len(idx.Chunks) && idx.Chunks[i].Zero && i-from < 256 {
			i++
		}
		off := int64(from) * idx.ChunkSize
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for _, k := range d.targets {
			if err := k.disk.Zero(off, min(int64(i)*idx.ChunkSize, idx.Size)-off); err != nil {
				return k.fail("zeroing", off, err)
			}
		}
	}
	return nil
}

// decode gives the verified bytes of chunk i in buf. A frame that is wrong is
// fetched again: TCP's checksum lets one in many packets pass.
func (d *deployment) decode(ctx context.Context, i int, data, buf []byte) ([]byte, error) {
	const tries = 3
	for try := 1; ; try++ {
		raw, problem := d.decodeOnce(i, data, buf)
		if problem == "" {
			return raw, nil
		}
		if try == tries {
			return nil, fmt.Errorf("chunk %d of %s is damaged, %d times in a row: %s; run fettle image verify on the server, then deploy again", i, d.src.data, tries, problem)
		}
		d.log.Warn("a chunk came damaged; fetching it again", "chunk", i, "problem", problem)
		var err error
		if data, err = d.src.one(ctx, i); err != nil {
			return nil, err
		}
	}
}

// decodeOnce says what is wrong with a frame, or gives its bytes in buf.
func (d *deployment) decodeOnce(i int, data, buf []byte) (raw []byte, problem string) {
	c, want := d.src.idx.Chunks[i], d.src.idx.RawLen(i)
	if c.Frame != "" && digestOf(data) != c.Frame {
		return nil, "its digest is wrong"
	}
	raw, err := d.dec.DecodeAll(data, buf[:0])
	switch {
	case err != nil:
		return nil, err.Error()
	case int64(len(raw)) != want:
		return nil, fmt.Sprintf("it has %d bytes, want %d", len(raw), want)
	case c.Frame == "" && digestOf(raw) != c.Raw:
		return nil, "its digest is wrong"
	}
	if !aligned(raw) {
		raw = buf[:copy(buf[:want], raw)]
	}
	d.sums[i] = xxhash.Sum64(raw)
	return raw, ""
}

// meter adds up bytes and reports them; the reporter thins them out.
func (d *deployment) meter(step wire.Step, total int64) func(n int64) {
	var mu sync.Mutex
	var done int64
	return func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		done += n
		d.report(step, "", done, total)
	}
}
