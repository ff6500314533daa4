// Package testkit has what the tests of several packages share: finding the
// programs that interop tests talk to, and telling the tiers of tests apart.
//
// Tests come in tiers, and all of them always compile:
//
//	hermetic   no root, network, device or foreign program   go test -short ./...
//	interop    other people's programs                       Tool, Tools
//	soak       as long as one likes                          Soak
//	guest      root in a virtual machine                     package test/vm
//
// With BLKBAK_REQUIRE_TOOLS set, as `make test` does, a program that is missing
// fails a test that would be skipped otherwise, so that a green run is one in
// which everything ran.
//
// It is for test files only.
package testkit
