package blkbak

import (
	"errors"
	"fmt"
)

// Sentinel errors name decisions, not places: a caller asks errors.Is what to
// do next, and reads the message for what happened. Commands map each to an
// exit code.
var (
	// ErrNotFound: the thing that was named does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists: the thing that was to be made is there already.
	ErrExists = errors.New("already exists")
	// ErrCorrupt: stored or foreign bytes are not what they must be.
	ErrCorrupt = errors.New("corrupt")
	// ErrBusy: another process holds what is needed; trying later may work.
	ErrBusy = errors.New("busy")
	// ErrNeedsFull: a change source cannot vouch for what changed, so that
	// only reading everything gives a right restore point.
	ErrNeedsFull = errors.New("needs a full read")
	// ErrUsage: the request makes no sense as written.
	ErrUsage = errors.New("usage")
	// ErrNoSpace: there is no room for what the request needs.
	ErrNoSpace = errors.New("no space")
)

// FormatError says what is wrong with encoded bytes, and where. It matches
// ErrCorrupt and, through Err, its cause.
type FormatError struct {
	Format string // what was read, "exception store", "pack"
	Off    int64  // byte offset within it, -1 when no single byte is to blame
	Msg    string // what is wrong, in words
	Err    error  // the cause, or nil
}

func (e *FormatError) Error() string {
	s := e.Format
	if e.Off >= 0 {
		s = fmt.Sprintf("%s at byte %d", s, e.Off)
	}
	if e.Msg != "" {
		s += ": " + e.Msg
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Is makes every FormatError an ErrCorrupt.
func (e *FormatError) Is(target error) bool { return target == ErrCorrupt }

func (e *FormatError) Unwrap() error { return e.Err }

// Corruptf makes a FormatError without a cause.
func Corruptf(format string, off int64, msg string, args ...any) error {
	return &FormatError{Format: format, Off: off, Msg: fmt.Sprintf(msg, args...)}
}

// hintError carries what the user can do about an error.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// WithHint attaches advice to err, one line in lower case: what to do now. A nil
// err stays nil.
func WithHint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hintError{err, fmt.Sprintf(format, args...)}
}

// Hint returns the outermost advice attached to err, or "".
func Hint(err error) string {
	var h *hintError
	if errors.As(err, &h) {
		return h.hint
	}
	return ""
}
