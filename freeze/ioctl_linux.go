//go:build linux && !(mips || mipsle || mips64 || mips64le || ppc64 || ppc64le)

package freeze

// iowr is the direction of _IOWR in include/uapi/asm-generic/ioctl.h.
const iowr = 3 << 30
