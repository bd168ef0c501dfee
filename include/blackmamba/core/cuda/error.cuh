#pragma once
/// \file
/// What CUDA answers, as exceptions that carry values.

#include <cuda_runtime.h>

#include <blackmamba/core/error.hpp>

namespace blackmamba {

/// A call of the CUDA runtime, or a kernel that an earlier call started, failed.
struct cuda_error : error {
  cuda_error(std::string const& what, cudaError_t error_code) : error{what}, code{error_code} {}
  cudaError_t code;
};

namespace detail {

/// Throws unless `code` is success: `memory_error` when the device is out of memory, which leaves it usable, `cuda_error`
/// otherwise. \param call  what was called, for the text
inline void check_cuda(cudaError_t code, std::string_view call) {
  if (code == cudaSuccess) return;
  cudaGetLastError();  // an error that can be recovered from is not to be seen again by the next call
  auto const text =
      concat(call, ": ", std::string_view{cudaGetErrorName(code)}, " (", std::string_view{cudaGetErrorString(code)}, ")");
  if (code == cudaErrorMemoryAllocation) throw memory_error(text);
  if (code == cudaErrorNoKernelImageForDevice)
    throw cuda_error(concat(text, ": this program was not compiled for the compute capability of this device"), code);
  throw cuda_error(text, code);
}

/// After a launch.
inline void check_launch(std::string_view kernel) { check_cuda(cudaGetLastError(), kernel); }

}  // namespace detail

}  // namespace blackmamba
