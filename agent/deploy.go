package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
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

// deployment is one image going to one disk.
//
// The disk has no partition table from the first write to the last: what is
// before the first partition (boot code and table) is kept in memory and
// written when all else is verified, seeded and durable. So a machine that
// loses power in between has nothing that boots, and no old table either.
type deployment struct {
	src     *source
	task    *wire.Deploy
	info    wire.Disk
	disk    Disk
	fs      FileSystems
	report  report
	log     *slog.Logger
	workers int

	uefi    bool // how the machine boots
	table   *table
	layout  layout
	patches []patch // see fitSectors
	dec     *zstd.Decoder

	lastSector [gptSector]byte // see hold

	// sums are XXH64 of each chunk, taken where its SHA-256 had just been
	// verified: enough to find what a disk gets wrong, and a hundred times
	// faster than SHA-256 where that has no instructions (AGENT.md).
	sums []uint64
}

// deploy does a whole task.
func deploy(ctx context.Context, task *wire.Deploy, src *source, disks Disks, fs FileSystems, uefi bool, log *slog.Logger, rep report) error {
	if err := checkTask(task); err != nil {
		return err
	}
	rep(wire.StepPartition, "finding disk "+task.DiskSerial, 0, 0)
	list, err := disks.List()
	if err != nil {
		return fmt.Errorf("listing the disks: %w", err)
	}
	info, err := chooseDisk(list, task.DiskSerial)
	if err != nil {
		return err
	}
	if err := src.fetchIndex(ctx, task.IndexURL, task.IndexDigest); err != nil {
		return err
	}
	disk, err := disks.Open(info)
	if err != nil {
		return fmt.Errorf("opening disk %s (serial %s): %w", info.Name, info.Serial, err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(uint64(src.idx.ChunkSize)+mib), zstd.WithDecoderMaxWindow(uint64(max(src.idx.ChunkSize, 8*mib))))
	if err != nil {
		return errors.Join(err, disk.Close())
	}
	defer dec.Close()
	d := &deployment{src: src, task: task, info: info, disk: disk, fs: fs, uefi: uefi, report: rep, log: log, dec: dec,
		workers: min(max(2, runtime.NumCPU()), 8), sums: make([]uint64, len(src.idx.Chunks))}
	err = d.run(ctx)
	if cerr := disk.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("closing disk %s: %w", info.Name, cerr)
	}
	return err
}

// checkTask refuses what could only fail half-way.
func checkTask(t *wire.Deploy) error {
	if err := checkKernelArgs(t.KernelArgs); err != nil {
		return err
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

// plan checks, before anything on the disk is touched, that the image fits.
func (d *deployment) plan(ctx context.Context) error {
	idx := d.src.idx
	if err := d.checkSectors(); err != nil {
		return err
	}
	if d.disk.Size() < idx.Size {
		return fmt.Errorf("disk %s is too small: it has %s, the image needs %s: choose another disk or a smaller image", d.name(), size(d.disk.Size()), size(idx.Size))
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
	if d.table, err = parseTable(raw, idx.Size); err != nil {
		return err
	}
	if err := d.fitSectors(ctx); err != nil {
		return err
	}
	d.layout, err = d.table.grow(d.disk.Size(), idx.RootPart, d.task.RootBytes, d.task.SwapBytes)
	return err
}

func (d *deployment) name() string { return fmt.Sprintf("%s (serial %s)", d.info.Name, d.info.Serial) }

func (d *deployment) diskError(doing string, off int64, err error) error {
	return fmt.Errorf("%s disk %s at byte %d: %w; look at the disk's health and the kernel's log, replace it if this happens again", doing, d.name(), off, err)
}

// wipe makes whatever was on the disk unbootable.
func (d *deployment) wipe(context.Context) error {
	d.report(wire.StepPartition, "wiping the old partition table of disk "+d.name(), 0, 0)
	if _, err := d.disk.Partitions(nil); err != nil {
		return fmt.Errorf("forgetting the old partitions of disk %s: %w", d.name(), err)
	}
	end := d.disk.Size()
	n := min(mib, end)
	ends := func() error {
		for _, off := range []int64{0, end - n} {
			if err := d.disk.Zero(off, n); err != nil {
				return d.diskError("wiping", off, err)
			}
		}
		if err := d.disk.Sync(); err != nil {
			return d.diskError("wiping", 0, err)
		}
		return nil
	}
	if err := ends(); err != nil {
		return err
	}
	if err := d.disk.Discard(); err != nil {
		d.log.Info("the disk does not discard", "disk", d.info.Name, "error", err)
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
				if _, err := d.disk.WriteAt(raw, off); err != nil {
					cancel(d.diskError("writing to", off, err))
					return
				}
				progress(int64(len(raw)))
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := d.disk.Sync(); err != nil {
		return d.diskError("flushing", 0, err)
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
		if err := d.disk.Zero(off, min(int64(i)*idx.ChunkSize, idx.Size)-off); err != nil {
			return d.diskError("zeroing", off, err)
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
