// Any text as a config.json: refused by file_error, or it reads back from what is written of it.

#include <cstdint>
#include <cstdlib>

#include <blackmamba/io/config.hpp>

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  using namespace blackmamba;
  try {
    auto const config = io::parse_config({reinterpret_cast<char const*>(data), size}, "config.json");
    if (io::parse_config(io::to_json(config), "config.json") != config) std::abort();
  } catch (file_error const&) {
  }
  return 0;
}
