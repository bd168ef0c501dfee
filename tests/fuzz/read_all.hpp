#pragma once
// What a program does with a stranger's checkpoint: open it, and read every tensor of it.

#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include <blackmamba/io/tensor_file.hpp>

namespace test {

using namespace blackmamba;

/// Throws nothing but `file_error`, which is caught; leaves no byte of the memory's outside touched, which the sanitizer sees.
inline void read_all(std::span<std::byte const> bytes, std::string const& name) {
  try {
    auto const file = io::TensorFile::view(bytes, name);
    for (auto const& tensor : file.tensors()) {
      if (tensor.bytes > static_cast<Index>(bytes.size())) std::abort();  // a tensor larger than its file
      if (tensor.elements() == 0) continue;
      if (tensor.shape.size() == 1) file.read<float, 1>(tensor.name);
      if (tensor.shape.size() == 2) file.read<double, 2>(tensor.name);
      if (tensor.shape.size() == 3) file.read<bf16, 3>(tensor.name);
      if (tensor.shape.empty() && !io::is_floating(tensor.dtype)) file.read<Token, 1>(tensor.name);
    }
  } catch (file_error const&) {
  }
}

}  // namespace test
