#pragma once
/// \file
/// Products of tiles in shared memory by a group of four warps: the tensor cores of compute capability 9.0a (`wgmma`).
///
/// Device code here needs compilation for sm_90a; a program that was compiled for something else has none of it, which the host
/// asks with `has_wgmma`.

#include <array>
#include <atomic>
#include <cstdint>

#include <blackmamba/core/cuda/context.cuh>

namespace blackmamba::detail {

/// Needs shared memory only where it was compiled for sm_90a: that is how the host can tell.
static __global__ void wgmma_probe_kernel(int* out) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  __shared__ int volatile there[64];
  there[threadIdx.x % 64] = static_cast<int>(threadIdx.x);
  __syncthreads();
  *out = there[(threadIdx.x + 1) % 64];
#else
  *out = 0;
#endif
}

/// Whether the code that this device loads from this program was compiled for sm_90a. Asks the driver once a device; queues
/// nothing.
inline bool has_wgmma(int device) {
  static std::array<std::atomic<signed char>, 64> known{};  // 0: not asked yet
  auto const ask = [&] {
    DeviceScope const scope{device};
    cudaFuncAttributes attributes{};
    if (cudaFuncGetAttributes(&attributes, wgmma_probe_kernel) != cudaSuccess) {
      cudaGetLastError();
      return false;
    }
    return attributes.sharedSizeBytes >= 64 * sizeof(int);
  };
  if (device >= static_cast<int>(known.size())) return ask();
  auto& answer = known[static_cast<std::size_t>(device)];
  if (answer.load(std::memory_order_relaxed) == 0) answer.store(ask() ? 1 : -1, std::memory_order_relaxed);
  return answer.load(std::memory_order_relaxed) > 0;
}

/// A tile in shared memory, as `bring_tile` leaves it, seen by the tensor cores. Its address is a multiple of 1024.
///
/// Rows of 64 along the sum (not turned): rows of 128 bytes, 8 of them every 1024. The next 16 of the sum are 32 bytes on.
/// Rows along the output (turned): each row is 64 outputs of one index of the sum, 8 of the sum every 1024 bytes, and the next 64
/// outputs are `further` bytes on. The next 16 of the sum are 2048 bytes on.
__device__ inline std::uint64_t tile_descriptor(std::uint32_t address, unsigned further = 16) {
  return static_cast<std::uint64_t>((address & 0x3ffffu) >> 4) | static_cast<std::uint64_t>(further >> 4) << 16 |
         static_cast<std::uint64_t>(1024 >> 4) << 32 | std::uint64_t{1} << 62;
}

__device__ inline void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until all but the last `Pending` committed groups have been computed.
template <int Pending>
__device__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
/// Keeps uses of the sums on their side of a wait.
template <int Count>
__device__ void wgmma_hold(float (&d)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

/// Shared memory written by ordinary stores is seen by the tensor cores and the copy engine after this and a barrier.
__device__ inline void publish_to_engines() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/// Registers of a warp group, of those that others of the block gave back.
template <int Registers>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
__device__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

// clang-format off
#define BLACKMAMBA_FLOATS_4(d, i) "+f"((d)[i]), "+f"((d)[i + 1]), "+f"((d)[i + 2]), "+f"((d)[i + 3])
#define BLACKMAMBA_FLOATS_8(d, i) BLACKMAMBA_FLOATS_4(d, i), BLACKMAMBA_FLOATS_4(d, i + 4)
#define BLACKMAMBA_FLOATS_32(d, i) \
  BLACKMAMBA_FLOATS_8(d, i), BLACKMAMBA_FLOATS_8(d, i + 8), BLACKMAMBA_FLOATS_8(d, i + 16), BLACKMAMBA_FLOATS_8(d, i + 24)
#define BLACKMAMBA_FLOATS_64(d) BLACKMAMBA_FLOATS_32(d, 0), BLACKMAMBA_FLOATS_32(d, 32)
#define BLACKMAMBA_FLOATS_128(d) BLACKMAMBA_FLOATS_64(d), BLACKMAMBA_FLOATS_32(d, 64), BLACKMAMBA_FLOATS_32(d, 96)
// clang-format on

/// d (64, 256) = A (64, 16) B (16, 256), added to d if `add`. Of its thread t, d[4 j + 2 h + i] is row 16 (t / 32) + (t mod 32) / 4
/// + 8 h, column 8 j + 2 (t mod 4) + i. Asynchronous: d is there after `wgmma_wait`.
template <class T, bool TurnedA, bool TurnedB>
__device__ void wgmma_256(float (&d)[128], std::uint64_t a, std::uint64_t b, bool add) {
  if constexpr (std::is_same_v<T, half>) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
        "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
        "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, "
        "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, "
        "%101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, "
        "%117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
        "}, %128, %129, p, 1, 1, %131, %132;}"
        : BLACKMAMBA_FLOATS_128(d)
        : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(TurnedA)), "n"(static_cast<int>(TurnedB)));
  } else {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
        "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
        "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, "
        "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, "
        "%101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, "
        "%117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
        "}, %128, %129, p, 1, 1, %131, %132;}"
        : BLACKMAMBA_FLOATS_128(d)
        : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(TurnedA)), "n"(static_cast<int>(TurnedB)));
  }
}

/// d (64, 128), the first or the second half of the sums, likewise.
template <class T, bool TurnedA, bool TurnedB, int Half = 0>
__device__ void wgmma_128(float (&d)[128], std::uint64_t a, std::uint64_t b, bool add) {
  if constexpr (std::is_same_v<T, half>) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
        "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
        "%62, %63"
        "}, %64, %65, p, 1, 1, %67, %68;}"
        : BLACKMAMBA_FLOATS_64(d + 64 * Half)
        : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(TurnedA)), "n"(static_cast<int>(TurnedB)));
  } else {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
        "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
        "%62, %63"
        "}, %64, %65, p, 1, 1, %67, %68;}"
        : BLACKMAMBA_FLOATS_64(d + 64 * Half)
        : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(TurnedA)), "n"(static_cast<int>(TurnedB)));
  }
}

#undef BLACKMAMBA_FLOATS_4
#undef BLACKMAMBA_FLOATS_8
#undef BLACKMAMBA_FLOATS_32
#undef BLACKMAMBA_FLOATS_64
#undef BLACKMAMBA_FLOATS_128

}  // namespace blackmamba::detail
