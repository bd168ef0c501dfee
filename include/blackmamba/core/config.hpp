#pragma once
/// \file
/// The few macros of the library. They decorate declarations; none of them changes what a function means.

#if defined(__CUDACC__)
#define BLACKMAMBA_HOST_DEVICE __host__ __device__
#else
#define BLACKMAMBA_HOST_DEVICE
#endif

#define BLACKMAMBA_VERSION_MAJOR 0
#define BLACKMAMBA_VERSION_MINOR 1
#define BLACKMAMBA_VERSION_PATCH 0

namespace blackmamba {

/// Extents, strides, offsets and counts are 64-bit everywhere: a scan at batch 64 and 64k tokens has more than 2^31 elements.
using Index = long long;

/// A token of the vocabulary.
using Token = int;

static_assert(sizeof(Index) == 8 && sizeof(Token) == 4);

}  // namespace blackmamba
