package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/blkbak/blkbak"
	"github.com/blkbak/blkbak/chunkstore"
	"github.com/blkbak/blkbak/internal/catalog"
	"github.com/blkbak/blkbak/internal/engine"
	"github.com/blkbak/blkbak/internal/lvm"
	process "github.com/blkbak/blkbak/internal/run"
)

// openStore opens the repository that the flags name. With make, the default one
// is made if it is missing: nobody has to think of it.
func (a *app) openStore(ctx context.Context, make bool) (*chunkstore.Store, error) {
	dir, isDefault, err := a.global.repository()
	if err != nil {
		return nil, err
	}
	if scheme, _, ok := strings.Cut(dir, "://"); ok {
		return nil, usagef("repository %s: repositories at %s are not supported, only directories", dir, scheme)
	}
	store, err := chunkstore.Open(ctx, dir, a.storeOptions())
	if make && isDefault && errors.Is(err, blkbak.ErrNotFound) {
		if _, err := chunkstore.Init(ctx, dir, 0); err != nil {
			return nil, err
		}
		a.notef("made the repository %s", dir)
		return chunkstore.Open(ctx, dir, a.storeOptions())
	}
	return store, err
}

func (a *app) storeOptions() chunkstore.Options {
	return chunkstore.Options{Report: func(err error) { a.log.Warn("repository", "err", err) }}
}

// withCatalog runs f with the repository open and its points loaded. Damaged
// points are warned of: they must not keep anyone from the others.
func (a *app) withCatalog(c *cli.Context, f func(*chunkstore.Store, *catalog.Catalog) error) error {
	store, err := a.openStore(c.Context, false)
	if err != nil {
		return err
	}
	defer store.Close()
	cat, err := catalog.Load(c.Context, store)
	if err != nil {
		return err
	}
	var damaged warnings
	for _, d := range cat.Damaged() {
		damaged = append(damaged, "point not readable: "+d.Error())
	}
	if err := f(store, cat); err != nil || len(damaged) == 0 {
		return err
	}
	return hintf(damaged, "see what is affected with: blkbak check")
}

// namePoints lists what completion offers for POINT and VOLUME: names of volumes,
// and of points in the forms that are worth typing.
func (a *app) namePoints(ctx context.Context, prefix string) []string {
	store, err := a.openStore(ctx, false)
	if err != nil {
		return nil // completion is no place for errors
	}
	defer store.Close()
	cat, err := catalog.Load(ctx, store)
	if err != nil {
		return nil
	}
	var names []string
	add := func(name string) {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	for _, v := range cat.Volumes() {
		add(v)
		if strings.Contains(prefix, "@") {
			add(v + "@latest")
			add(v + "@oldest")
		}
	}
	if prefix != "" {
		for _, p := range cat.Points("") {
			add(p.ID.String())
		}
	}
	return names
}

// engine makes the engine for a repository, with the host's tools wired to it.
func (a *app) engine(store *chunkstore.Store) (*engine.Engine, error) {
	state, err := a.global.state()
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("find the host's name: %w", err)
	}
	if host == "" || host == "(none)" { // as the kernel calls a machine that nobody named
		host = "localhost"
	}
	repo, _, err := a.global.repository()
	if err != nil {
		return nil, err
	}
	return engine.New(engine.Options{
		Store:    store,
		LVM:      lvm.New(&process.Runner{Log: a.log}),
		Freezer:  freezer{a.log},
		StateDir: state,
		RepoDir:  repo,
		Host:     host,
		Program:  programName + " " + currentBuild().Version,
		Logger:   a.log,
		Now:      a.now,
	}), nil
}

// showProgress makes a bar of what an engine reports. The returned function ends it.
func (a *app) showProgress(e *engine.Engine) (done func()) {
	var bar *progress
	var name string
	var last int64
	e.Progress = func(what string, at, total int64) {
		if bar == nil || what != name {
			if bar != nil {
				bar.Done()
			}
			bar, name, last = a.Progress(what, total), what, 0
		}
		bar.Add(at - last)
		last = at
	}
	return func() {
		if bar != nil {
			bar.Done()
		}
	}
}
