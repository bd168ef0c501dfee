#pragma once
// Devices by name: what a program was built for, and what it says of the others.

#include <string>

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/error.hpp>

namespace program {

using namespace blackmamba;

/// Whether this program has code for `Cuda`.
inline constexpr bool built_with_cuda = BLACKMAMBA_EXAMPLE_CUDA;

/// Throws `value_error`: there is no such device. \param known  those that there are besides cuda
[[noreturn]] inline void refuse_device(std::string const& device, std::string const& known) {
  if (device == "cuda" && !built_with_cuda)
    throw value_error("there is no device 'cuda' in this program: it was built without CUDA, which -DBLACKMAMBA_CUDA=ON demands");
  throw value_error(concat("there is no device '", device, "'; there are: ", known, built_with_cuda ? ", cuda" : ""));
}

}  // namespace program
