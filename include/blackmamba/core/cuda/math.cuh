#pragma once
/// \file
/// Device arithmetic of one thread: the elementary functions that operations share, and pairs of neighbouring elements.
///
/// The float versions use the special-function unit, flush subnormals, and are within a few units in the last place over the ranges
/// the operations need; the double versions are the CUDA library's.

#include <cstdint>

#include <blackmamba/core/scalar.hpp>

namespace blackmamba::detail {

/// 2^x. Relative error at most 2^-22; 2^0 = 1 exactly.
__device__ inline float device_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline double device_exp2(double x) { return ::exp2(x); }

/// 1 / x, 0 for a subnormal result.
__device__ inline float device_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline double device_reciprocal(double x) { return 1 / x; }

/// log(1 + exp(x)), of small relative error where it is small: a step size of 1e-4 decides what is remembered over 10000 steps.
__device__ inline float device_softplus(float x) {
  float const w = device_exp2(-1.44269504f * fabsf(x));  // in [0, 1]
  // log1p(w) / w, minimax of relative error 2e-7 on [0, 1].
  float p = -0.008539209726f;
  p = fmaf(p, w, 0.04408963552f);
  p = fmaf(p, w, -0.1076817176f);
  p = fmaf(p, w, 0.177452417f);
  p = fmaf(p, w, -0.2449546289f);
  p = fmaf(p, w, 0.3327547978f);
  p = fmaf(p, w, -0.499974054f);
  p = fmaf(p, w, 0.9999998057f);
  return fmaf(p, w, fmaxf(x, 0.0f));
}
__device__ inline double device_softplus(double x) { return ::log1p(::exp(-::fabs(x))) + ::fmax(x, 0.0); }

/// 1 / (1 + exp(-x))
__device__ inline float device_sigmoid(float x) { return device_reciprocal(1.0f + device_exp2(-1.44269504f * x)); }
__device__ inline double device_sigmoid(double x) { return 1 / (1 + ::exp(-x)); }

/// x / (1 + exp(-x))
__device__ inline float device_silu(float x) { return x * device_reciprocal(1.0f + device_exp2(-1.44269504f * x)); }
__device__ inline double device_silu(double x) { return x / (1 + ::exp(-x)); }

/// Addresses in shared memory as the 32 bits they have, which spares computing them from where the block's memory begins.
template <class T>
__device__ std::uint32_t shared_address(T* p) {
  auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
  asm volatile("" : "+r"(address));
  return address;
}
__device__ inline float4 load_shared(std::uint32_t address) {
  float4 x;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "r"(address) : "memory");
  return x;
}
__device__ inline void store_shared(std::uint32_t address, float2 x) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(x.x), "f"(x.y) : "memory");
}
__device__ inline void store_shared(std::uint32_t address, float4 x) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(x.x), "f"(x.y), "f"(x.z), "f"(x.w) : "memory");
}

/// Starts copying `Bytes` (4, 8 or 16) of global memory to shared memory, beside everything else: no register waits for it.
template <int Bytes>
__device__ void copy_async(std::uint32_t to, void const* from) {
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(Bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(Bytes) : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until all but the last `Pending` committed groups of this thread are there.
template <int Pending>
__device__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

/// A stored element as it is computed with, and back, in one instruction.
template <class T>
__device__ accumulator_t<T> device_widen(T x) {
  if constexpr (std::is_same_v<T, half>) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
  } else {
    return widen(x);
  }
}
template <class T>
__device__ T device_round(accumulator_t<T> x) {
  if constexpr (std::is_same_v<T, half>) {
    std::uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return half::from_bits(bits);
  } else if constexpr (std::is_same_v<T, bf16>) {
    std::uint16_t bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bf16::from_bits(bits);
  } else {
    return x;
  }
}

/// Stores to global memory under a predicate and no branch, which would keep instructions around it apart.
template <class T>
__device__ void store_if(bool condition, T* p, T x) {
  if constexpr (sizeof(T) == 2)
    asm volatile("{.reg .pred p; setp.ne.s32 p, %0, 0; @p st.global.b16 [%1], %2;}" ::"r"(static_cast<int>(condition)), "l"(p),
                 "h"(x.bits)
                 : "memory");
  else
    asm volatile("{.reg .pred p; setp.ne.s32 p, %0, 0; @p st.global.f32 [%1], %2;}" ::"r"(static_cast<int>(condition)), "l"(p),
                 "f"(x)
                 : "memory");
}
/// x, computed here: not moved below a branch on whether it is used.
__device__ inline float computed(float x) {
  asm volatile("" : "+f"(x));
  return x;
}

/// Two neighbouring elements as they are stored, read and written in one access; the address must be a multiple of their size.
/// Memory is global. Stores have a predicate and no branch, which would keep instructions around it apart.
template <class T>
struct StoredPair;

template <>
struct StoredPair<float> {
  float2 bits;
  static __device__ StoredPair zero() { return {float2{0, 0}}; }
  static __device__ StoredPair load_shared(std::uint32_t address) {
    StoredPair x;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x.bits.x), "=f"(x.bits.y) : "r"(address) : "memory");
    return x;
  }
  static __device__ StoredPair of(float a, float b) { return {float2{a, b}}; }
  static __device__ StoredPair load(float const* p) {
    StoredPair x;
    asm volatile("ld.global.v2.f32 {%0, %1}, [%2];" : "=f"(x.bits.x), "=f"(x.bits.y) : "l"(p));
    return x;
  }
  static __device__ void store_if(bool condition, float* p, float2 x) {
    asm volatile("{.reg .pred p; setp.ne.s32 p, %0, 0; @p st.global.v2.f32 [%1], {%2, %3};}" ::"r"(static_cast<int>(condition)),
                 "l"(p), "f"(x.x), "f"(x.y));
  }
  __device__ float2 widen() const { return bits; }
};

template <>
struct StoredPair<bf16> {
  std::uint32_t bits;
  static __device__ StoredPair zero() { return {0}; }
  static __device__ StoredPair load_shared(std::uint32_t address) {
    StoredPair x;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x.bits) : "r"(address) : "memory");
    return x;
  }
  static __device__ StoredPair of(bf16 a, bf16 b) { return {a.bits | static_cast<std::uint32_t>(b.bits) << 16}; }
  static __device__ StoredPair load(bf16 const* p) {
    StoredPair x;
    asm volatile("ld.global.b32 %0, [%1];" : "=r"(x.bits) : "l"(p));
    return x;
  }
  static __device__ void store_if(bool condition, bf16* p, float2 x) {
    std::uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(x.y), "f"(x.x));
    asm volatile("{.reg .pred p; setp.ne.s32 p, %0, 0; @p st.global.b32 [%1], %2;}" ::"r"(static_cast<int>(condition)), "l"(p),
                 "r"(both));
  }
  __device__ float2 widen() const { return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)}; }
};

template <>
struct StoredPair<half> {
  std::uint32_t bits;
  static __device__ StoredPair zero() { return {0}; }
  static __device__ StoredPair load_shared(std::uint32_t address) {
    StoredPair x;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x.bits) : "r"(address) : "memory");
    return x;
  }
  static __device__ StoredPair of(half a, half b) { return {a.bits | static_cast<std::uint32_t>(b.bits) << 16}; }
  static __device__ StoredPair load(half const* p) {
    StoredPair x;
    asm volatile("ld.global.b32 %0, [%1];" : "=r"(x.bits) : "l"(p));
    return x;
  }
  static __device__ void store_if(bool condition, half* p, float2 x) {
    std::uint32_t both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(x.y), "f"(x.x));
    asm volatile("{.reg .pred p; setp.ne.s32 p, %0, 0; @p st.global.b32 [%1], %2;}" ::"r"(static_cast<int>(condition)), "l"(p),
                 "r"(both));
  }
  __device__ float2 widen() const {
    float2 x;
    asm("{.reg .f16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
        : "=f"(x.x), "=f"(x.y)
        : "r"(bits));
    return x;
  }
};

}  // namespace blackmamba::detail
