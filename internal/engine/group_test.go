package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/cow"
	"github.com/blkbak/blkbak/internal/lvm"
)

// group is a model of a volume group with the classic volume vg/data and its
// snapshots. Snapshots record exceptions as the kernel does, and their exception
// stores have its format.
type group struct {
	volumes   map[string]*volume
	size      int64
	uuids     int
	breakNext bool // the next lvcreate leaves a half-made volume
	inUse     bool // snapshots cannot be removed
}

type volume struct {
	lvm.Volume
	data     []byte         // what the device reads as
	excepted map[int64]bool // chunks of the origin in a snapshot's table
}

func newGroup(size int64) group {
	g := group{volumes: map[string]*volume{}, size: 8 * size}
	g.add("data", lvm.Volume{Kind: "linear", Size: size, Valid: true}).data = make([]byte, size)
	return g
}

func (g *group) add(name string, v lvm.Volume) *volume {
	g.uuids++
	v.UUID, v.Name, v.VG, v.VGUUID, v.Active = fmt.Sprintf("uuid-%d", g.uuids), name, "vg", "vg-uuid", true
	v.Path, v.DMPath = "/dev/vg/"+name, "/dev/mapper/"+lvm.DMName("vg", name, "")
	g.volumes[name] = &volume{Volume: v, excepted: map[int64]bool{}}
	return g.volumes[name]
}

func (g *group) origin() *volume { return g.volumes["data"] }

func (g *group) snapshots() []*volume {
	var list []*volume
	for _, name := range slices.Sorted(maps.Keys(g.volumes)) {
		if v := g.volumes[name]; v.Kind == lvm.KindSnapshot {
			list = append(list, v)
		}
	}
	return list
}

func (g *group) free() int64 {
	free := g.size
	for _, v := range g.volumes {
		free -= v.Size
	}
	return free
}

// write changes the origin, after its snapshots took note.
func (g *group) write(off int64, p []byte) {
	for _, s := range g.snapshots() {
		s.except(off, int64(len(p)))
	}
	copy(g.origin().data[off:], p)
}

// except notes that the bytes differ from the origin's, and drops a snapshot
// that has no room for it.
func (v *volume) except(off, n int64) {
	for c := off / v.ChunkSize; c*v.ChunkSize < min(off+n, int64(len(v.data))); c++ {
		if v.Valid && !v.excepted[c] {
			v.excepted[c] = true
			v.Valid = (1+int64(len(v.excepted))+v.areas())*v.ChunkSize <= v.Size
		}
	}
}

func (v *volume) areas() int64 { return int64(len(v.excepted))/(v.ChunkSize/16) + 1 }

// device opens what has the given path.
func (g *group) device(path string, read readFunc) (device, error) {
	for _, v := range g.volumes {
		switch {
		case v.Kind != lvm.KindSnapshot && path == v.Path:
			return nil, errors.New("the origin is read, not the snapshot")
		case path == v.Path:
			return &memoryDevice{data: v.data, read: read, valid: &v.Valid}, nil
		case path == v.COWPath():
			return v.store()
		}
	}
	return nil, fmt.Errorf("open %s: %w", path, blkbak.ErrNotFound)
}

// store is the device with the exception store as it is now.
func (v *volume) store() (device, error) {
	var extents []blkbak.Extent
	for _, c := range slices.Sorted(maps.Keys(v.excepted)) {
		extents = blkbak.AppendExtent(extents, blkbak.Extent{Off: c * v.ChunkSize, Len: v.ChunkSize})
	}
	room := 64 * v.ChunkSize // for the exceptions that were too many
	d := &memoryDevice{data: make([]byte, v.Size+room)}
	if _, err := cow.Write(context.Background(), d, bytes.NewReader(v.data), extents,
		cow.WriteOptions{OriginSize: int64(len(v.data)), ChunkSize: v.ChunkSize}); err != nil {
		return nil, err
	}
	if !v.Valid {
		binary.LittleEndian.PutUint32(d.data[4:], 0)
	}
	return d, nil
}

// memoryDevice is a device in memory.
type memoryDevice struct {
	data  []byte
	read  readFunc // nil where nobody else is at work
	valid *bool    // nil for what is no snapshot
}

type readFunc func(from *memoryDevice, p []byte, off int64) (int, error)

func (d *memoryDevice) ReadAt(p []byte, off int64) (int, error) {
	if d.read != nil {
		return d.read(d, p, off)
	}
	return bytes.NewReader(d.data).ReadAt(p, off)
}

func (d *memoryDevice) WriteAt(p []byte, off int64) (int, error) { return copy(d.data[off:], p), nil }
func (d *memoryDevice) Size() int64                              { return int64(len(d.data)) }
func (d *memoryDevice) Close() error                             { return nil }

func (d *memoryDevice) NextData(off int64) (data, hole int64, err error) {
	if off >= d.Size() {
		return 0, 0, io.EOF
	}
	return off, d.Size(), nil
}

// worldLVM is the group behind the interface that the engine has.
type worldLVM struct{ *world }

func (l worldLVM) find(name string) (*volume, error) {
	v, ok := l.volumes[strings.TrimPrefix(name, "vg/")]
	if !ok {
		return nil, fmt.Errorf("volume %s: %w", name, blkbak.ErrNotFound)
	}
	return v, nil
}

func (l worldLVM) Volume(_ context.Context, name string) (out lvm.Volume, err error) {
	err = l.do("lvm show "+name, func() error {
		v, err := l.find(name)
		if err == nil {
			out = v.Volume
		}
		return err
	})
	return out, err
}

func (l worldLVM) Volumes(_ context.Context, vg string) (list []lvm.Volume, err error) {
	err = l.do("lvm list "+vg, func() error {
		for _, name := range slices.Sorted(maps.Keys(l.volumes)) {
			list = append(list, l.volumes[name].Volume)
		}
		return nil
	})
	return list, err
}

func (l worldLVM) Group(_ context.Context, vg string) (g lvm.Group, err error) {
	err = l.do("lvm group "+vg, func() error {
		g = lvm.Group{Name: vg, UUID: "vg-uuid", Size: l.size, Free: l.free(), ExtentSize: worldChunk}
		return nil
	})
	return g, err
}

func (l worldLVM) Metadata(_ context.Context, vg string) (text []byte, err error) {
	err = l.do("lvm metadata "+vg, func() error {
		text = []byte("vg {}\n")
		return nil
	})
	return text, err
}

func (l worldLVM) Status(_ context.Context, dmName string) (st cow.Status, err error) {
	err = l.do("lvm status "+dmName, func() error {
		for _, v := range l.volumes {
			if lvm.DMName(v.VG, v.Name, "") != dmName {
				continue
			}
			st = cow.Status{Target: cow.Target{Kind: cow.TargetSnapshot}, State: cow.StateActive}
			switch {
			case v.Kind != lvm.KindSnapshot:
				return fmt.Errorf("device %s is no snapshot: %w", dmName, blkbak.ErrUsage)
			case !v.Valid:
				st.State = cow.StateInvalid
			default:
				st.Metadata = (v.areas() + 1) * v.ChunkSize
				st.Allocated = st.Metadata + int64(len(v.excepted))*v.ChunkSize
				st.Total = v.Size
			}
			return nil
		}
		return fmt.Errorf("device %s: %w", dmName, blkbak.ErrNotFound)
	})
	return st, err
}

func (l worldLVM) CreateSnapshot(_ context.Context, s lvm.Spec) error {
	return l.do(fmt.Sprintf("lvm create %s/%s of %s, %d bytes", s.VG, s.Name, s.Origin, s.Size), func() error {
		if s.Size > l.free() {
			return fmt.Errorf("lvcreate: %w", blkbak.ErrNoSpace)
		}
		v := lvm.Volume{Kind: lvm.KindSnapshot, Size: s.Size, ChunkSize: max(s.ChunkSize, cow.DefaultChunk), Valid: true,
			Origin: s.Origin, OriginUUID: l.origin().UUID, Tags: append([]string{lvm.Mark}, s.Tags...)}
		if l.breakNext {
			l.breakNext = false
			v.Kind, v.Origin, v.OriginUUID, v.ChunkSize = "linear", "", "", 0
			l.add(s.Name, v).data = make([]byte, s.Size)
			return nil
		}
		n := l.add(s.Name, v)
		n.data = slices.Clone(l.origin().data)
		l.truth[n.UUID] = slices.Clone(n.data)
		return nil
	})
}

func (l worldLVM) Remove(_ context.Context, name string) error {
	return l.do("lvm remove "+name, func() error {
		v, err := l.find(name)
		if err != nil {
			return err
		}
		if repo, _ := v.TagValue(tagRepo); !v.Tagged(lvm.Mark) || repo == "another" {
			l.Errorf("%s is not ours to be removed", name)
		}
		if l.inUse && v.Kind == lvm.KindSnapshot {
			return fmt.Errorf("lvremove %s: in use: %w", name, blkbak.ErrBusy)
		}
		delete(l.volumes, v.Name)
		return nil
	})
}

func (l worldLVM) Retag(_ context.Context, name string, remove, add []string) error {
	return l.do(fmt.Sprintf("lvm tag %s -%v +%v", name, remove, add), func() error {
		v, err := l.find(name)
		if err != nil {
			return err
		}
		v.Tags = append(slices.DeleteFunc(slices.Clone(v.Tags), func(t string) bool { return slices.Contains(remove, t) }), add...)
		return nil
	})
}
