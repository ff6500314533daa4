package run

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// Process is a command that runs beside us.
type Process struct {
	// Stdin and Stdout are the ends of pipes that Start made. Closing Stdin
	// tells the process that there is no more; so does our death, however it
	// comes.
	Stdin  io.WriteCloser
	Stdout io.ReadCloser

	cmd    Cmd
	x      *exec.Cmd
	stderr *tail
	begin  time.Time
	log    func(p *Process, err error)

	stop     chan struct{} // closed by Stop
	stopOnce sync.Once
	done     chan struct{} // closed when err and what follows is set

	err       error
	exit      int
	dur       time.Duration
	abandoned bool // it did not even die of SIGKILL
}

// Start starts c with pipes to its standard input and output. It is stopped as
// Run would when ctx is done or c.Timeout has passed. The caller reads Stdout to
// its end, then calls Wait.
func (r *Runner) Start(ctx context.Context, c Cmd) (*Process, error) {
	// Pipes of our own: those of os/exec are closed when the process ends,
	// before all of its output is read. No other child inherits their ends.
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirIn.Close()
	out, theirOut, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil, err
	}
	defer theirOut.Close()
	p, err := r.start(ctx, c, func(x *exec.Cmd) { x.Stdin, x.Stdout = theirIn, theirOut })
	if err != nil {
		in.Close()
		out.Close()
		return nil, err
	}
	p.Stdin, p.Stdout = in, out
	return p, nil
}

func (r *Runner) start(ctx context.Context, c Cmd, plumb func(*exec.Cmd)) (*Process, error) {
	p := &Process{cmd: c, stderr: &tail{}, begin: time.Now(), exit: -1,
		stop: make(chan struct{}), done: make(chan struct{})}
	p.log = func(p *Process, err error) {
		if r.Log != nil {
			r.Log.LogAttrs(context.WithoutCancel(ctx), debugLevel, "command", attrs(p, err)...)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, p.fail(context.Cause(ctx))
	}
	x, err := command(c)
	if err != nil {
		return nil, p.fail(err)
	}
	plumb(x)
	if c.Stderr != nil {
		x.Stderr = c.Stderr
	} else {
		x.Stderr = p.stderr
	}
	if err := x.Start(); err != nil {
		return nil, p.fail(err)
	}
	p.x = x
	go p.watch(ctx)
	return p, nil
}

// fail makes and logs the Error of a command that did not start.
func (p *Process) fail(err error) error {
	p.err = &Error{Cmd: p.cmd.String(), name: p.cmd.Name, Exit: -1, Err: err}
	p.log(p, p.err)
	return p.err
}

// PID is the process's number.
func (p *Process) PID() int { return p.x.Process.Pid }

// Stop asks the process to end, as a context that is done would.
func (p *Process) Stop() { p.stopOnce.Do(func() { close(p.stop) }) }

// Wait waits for the end and closes the pipes. What is left in Stdout is lost:
// read it first.
func (p *Process) Wait() error {
	<-p.done
	if p.Stdin != nil {
		p.Stdin.Close() // closed already, as a rule
		p.Stdout.Close()
	}
	return p.err
}

var errStopped = errors.New("stopped")

// watch waits for the process, and ends it when it must.
func (p *Process) watch(ctx context.Context) {
	defer close(p.done)
	waited := make(chan error, 1)
	go func() { waited <- p.x.Wait() }()
	var timeout <-chan time.Time
	if p.cmd.Timeout > 0 {
		t := time.NewTimer(p.cmd.Timeout)
		defer t.Stop()
		timeout = t.C
	}
	var cause, err error
	select {
	case err = <-waited:
		if full := context.Cause(ctx); errors.Is(full, errTooMuch) {
			cause = full
		}
		p.finish(cause, err)
		return
	case <-ctx.Done():
		cause = context.Cause(ctx)
	case <-p.stop:
		cause = errStopped
	case <-timeout:
		cause = &timeoutError{p.cmd.Timeout}
	}
	p.finish(cause, p.end(waited))
}

// end stops the process group and returns what waiting for it gave.
func (p *Process) end(waited <-chan error) error {
	grace := p.cmd.Grace
	if grace == 0 {
		grace = DefaultGrace
	}
	terminate(p.x.Process)
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case err := <-waited:
		return err
	case <-t.C:
	}
	kill(p.x.Process)
	t.Reset(p.x.WaitDelay + 2*time.Second)
	select {
	case err := <-waited:
		return err
	case <-t.C:
		p.abandoned = true
		return errUnkillable
	}
}

var errUnkillable = errors.New("not even SIGKILL ended it: it sleeps in the kernel, on a frozen or stuck filesystem or device")

// finish sets what Wait returns.
func (p *Process) finish(cause, err error) {
	p.dur = time.Since(p.begin)
	if !p.abandoned && p.x.ProcessState != nil {
		p.exit = p.x.ProcessState.ExitCode()
	}
	// The command is what counts, not a daemon that kept its pipes.
	if errors.Is(err, exec.ErrWaitDelay) && p.exit == 0 {
		err = nil
	}
	switch {
	case cause != nil && p.abandoned:
		cause = errors.Join(cause, errUnkillable)
	case cause != nil:
	case err == nil && p.exit == 0:
		p.log(p, nil)
		return
	default:
		// The exit status says it all; a signal is worth naming.
		var status *exec.ExitError
		if cause = err; errors.As(err, &status) && p.exit >= 0 {
			cause = nil
		}
	}
	e := &Error{Cmd: p.cmd.String(), name: p.cmd.Name, Exit: p.exit, Err: cause}
	if !p.abandoned {
		e.Stderr = string(p.stderr.bytes())
	}
	p.err = e
	p.log(p, p.err)
}
