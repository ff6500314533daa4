package lvm

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/blkbak/blkbak"
)

// Kind is what a volume is: "snapshot" for a classic one, otherwise LVM's name
// for its type of segments.
type Kind string

// Kinds that decide something. There are others: "linear", "striped", "raid1", ...
const (
	KindSnapshot Kind = "snapshot" // classic, with an exception store
	KindThin     Kind = "thin"     // thin volume, snapshots of thin volumes too
	KindThinPool Kind = "thin-pool"
)

// Volume is one logical volume, as lvs reports it. Sizes are in bytes.
type Volume struct {
	UUID, Name string
	VG, VGUUID string
	Kind       Kind
	// Size is what the volume offers; of a classic snapshot it is the size of
	// its exception store, and what it offers is its origin's size.
	Size       int64
	Origin     string // of a snapshot
	OriginUUID string
	Pool       string // of a thin volume
	ThinID     int64  // of a thin volume, within its pool
	ChunkSize  int64  // of a classic snapshot or a pool
	Tags       []string

	Active    bool
	Open      bool
	Suspended bool
	// Valid is false for a classic snapshot that overflowed, or about which
	// nothing is known since it is not active.
	Valid bool
	// Merging is set for a snapshot that goes, or will go at the next
	// activation, back into its origin, and for that origin.
	Merging bool
	// HasSnapshots is set for the origin of classic snapshots.
	HasSnapshots bool
	// DataPercent is how full the exception store or the pool is, or how much of
	// a thin volume is mapped; -1 when unknown.
	DataPercent float64

	Path   string // /dev/vg/lv; "" for volumes that LVM keeps to itself
	DMPath string // /dev/mapper/vg-lv
}

// FullName is vg/lv.
func (v Volume) FullName() string { return v.VG + "/" + v.Name }

// Tagged tells whether v carries tag.
func (v Volume) Tagged(tag string) bool { return slices.Contains(v.Tags, tag) }

// TagValue returns the value of the tag that Tag made for key.
func (v Volume) TagValue(key string) (string, bool) {
	for _, t := range v.Tags {
		if k, value, ok := ParseTag(t); ok && k == key {
			return value, true
		}
	}
	return "", false
}

// COWPath is the device with the exception store of a classic snapshot.
func (v Volume) COWPath() string { return "/dev/mapper/" + DMName(v.VG, v.Name, "cow") }

// HalfMade recognises what an lvcreate that failed half-way leaves behind: it
// carries our tag but is a snapshot of nothing.
func (v Volume) HalfMade() bool {
	return v.Tagged(Mark) && v.Origin == "" && v.Kind != KindThin
}

// Group is one volume group. Sizes are in bytes.
type Group struct {
	Name, UUID string
	Size, Free int64
	ExtentSize int64
	MissingPVs int64
}

// lvsFields are what a Volume is made from, in the order of the report.
const lvsFields = "lv_uuid,lv_name,vg_name,vg_uuid,lv_size,lv_attr,lv_tags,segtype,origin,origin_uuid," +
	"chunk_size,data_percent,lv_snapshot_invalid,lv_merging,lv_active,lv_suspended,lv_device_open," +
	"pool_lv,thin_id,lv_path,lv_dm_path"

const vgsFields = "vg_name,vg_uuid,vg_size,vg_free,vg_extent_size,vg_missing_pv_count"

// row is one object of a report: all values are text.
type row map[string]string

// parseReport reads the JSON of --reportformat json and returns the rows of one
// kind, "lv" or "vg".
func parseReport(text []byte, kind string) ([]row, error) {
	var doc struct {
		Report []map[string]json.RawMessage `json:"report"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, &blkbak.FormatError{Format: "LVM report", Off: errorOffset(err), Err: err}
	}
	var rows []row
	for _, r := range doc.Report {
		raw, ok := r[kind]
		if !ok {
			continue
		}
		var some []row
		if err := json.Unmarshal(raw, &some); err != nil {
			return nil, &blkbak.FormatError{Format: "LVM report", Off: -1, Msg: kind, Err: err}
		}
		rows = append(rows, some...)
	}
	return rows, nil
}

func errorOffset(err error) int64 {
	if e, ok := err.(*json.SyntaxError); ok {
		return e.Offset
	}
	return -1
}

// number reads a field in bytes or as a count; empty is none.
func (r row) number(field string, none int64, err *error) int64 {
	if r[field] == "" {
		return none
	}
	n, perr := strconv.ParseInt(r[field], 10, 64)
	if perr != nil || n < 0 {
		*err = cmp.Or(*err, blkbak.Corruptf("LVM report", -1, "%s of %s is %q", field, cmp.Or(r["lv_name"], r["vg_name"]), r[field]))
	}
	return n
}

// need reports fields that must not be empty, or are not there at all.
func (r row) need(fields ...string) error {
	for _, f := range fields {
		if r[f] == "" {
			return blkbak.Corruptf("LVM report", -1, "no %s in %v", f, r)
		}
	}
	return nil
}

// parseVolumes reads the report of lvs. Fields of segments are among those asked
// for, so that a volume has a row for each of its segments: the first stands.
func parseVolumes(text []byte) ([]Volume, error) {
	rows, err := parseReport(text, "lv")
	if err != nil {
		return nil, err
	}
	var list []Volume
	seen := map[string]bool{}
	for _, r := range rows {
		v, err := r.volume()
		if err != nil {
			return nil, err
		}
		if !seen[v.UUID] {
			seen[v.UUID] = true
			list = append(list, v)
		}
	}
	return list, nil
}

func (r row) volume() (Volume, error) {
	if err := r.need("lv_uuid", "lv_name", "vg_name", "vg_uuid", "lv_size", "lv_attr", "segtype"); err != nil {
		return Volume{}, err
	}
	var err error
	v := Volume{
		UUID: r["lv_uuid"], VG: r["vg_name"], VGUUID: r["vg_uuid"],
		// lvs -a puts the names of volumes that LVM keeps to itself in brackets.
		Name:   strings.Trim(r["lv_name"], "[]"),
		Origin: strings.Trim(r["origin"], "[]"), OriginUUID: r["origin_uuid"],
		Pool: strings.Trim(r["pool_lv"], "[]"), Kind: Kind(r["segtype"]),
		Size: r.number("lv_size", 0, &err), ChunkSize: r.number("chunk_size", 0, &err),
		ThinID: r.number("thin_id", 0, &err),
		Active: r["lv_active"] != "", Open: r["lv_device_open"] == "open", Suspended: r["lv_suspended"] == "suspended",
		Merging: r["lv_merging"] != "", Path: r["lv_path"], DMPath: r["lv_dm_path"], DataPercent: -1,
	}
	if r["lv_tags"] != "" {
		v.Tags = strings.Split(r["lv_tags"], ",")
	}
	if p, perr := strconv.ParseFloat(r["data_percent"], 64); perr == nil {
		v.DataPercent = p
	}
	// lvs(8), lv_attr: the first letter is the type of the volume.
	v.Valid = true
	switch r["lv_attr"][0] {
	case 's', 'S':
		v.Kind = KindSnapshot
		v.Valid = v.Active && r["lv_snapshot_invalid"] == ""
	case 'o', 'O':
		v.HasSnapshots = true
	}
	return v, err
}

func parseGroups(text []byte) ([]Group, error) {
	rows, err := parseReport(text, "vg")
	if err != nil {
		return nil, err
	}
	var list []Group
	for _, r := range rows {
		if err := r.need("vg_name", "vg_uuid", "vg_size", "vg_free", "vg_extent_size"); err != nil {
			return nil, err
		}
		var err error
		g := Group{Name: r["vg_name"], UUID: r["vg_uuid"],
			Size: r.number("vg_size", 0, &err), Free: r.number("vg_free", 0, &err),
			ExtentSize: r.number("vg_extent_size", 0, &err), MissingPVs: r.number("vg_missing_pv_count", 0, &err)}
		if err == nil && g.ExtentSize == 0 {
			err = blkbak.Corruptf("LVM report", -1, "extent size of %s is 0", g.Name)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, g)
	}
	return list, nil
}

const sector = 512
