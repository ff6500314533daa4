//go:build linux && (mips || mipsle || mips64 || mips64le || ppc64 || ppc64le)

package freeze

// iowr is the direction of _IOWR in the ioctl.h of these architectures, which
// give it three bits.
const iowr = 6 << 29
