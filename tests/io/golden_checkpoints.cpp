#include <blackmamba/io/config.hpp>
#include <blackmamba/io/tensor_file.hpp>

#include "io/files.hpp"
#include "support/data.hpp"

using namespace blackmamba;

TEST_CASE("files: the torch checkpoint of a golden model holds what its safetensors file holds, bit for bit") {
  int compared = 0;
  for (auto const& folder : test::entries(test::data_folder(), "blackmamba-")) {
    INFO(folder);
    if (!std::filesystem::exists(folder / "pytorch_model.bin") || !std::filesystem::exists(folder / "model.safetensors")) continue;
    auto const torch = io::TensorFile::open(folder / "pytorch_model.bin");
    auto const safetensors = io::TensorFile::open(folder / "model.safetensors");
    REQUIRE(torch.tensors().size() == safetensors.tensors().size());
    for (auto const& expected : safetensors.tensors()) {
      INFO(expected.name);
      auto const& got = torch.info(expected.name);
      CHECK(got.dtype == expected.dtype);
      CHECK(got.shape == expected.shape);
      REQUIRE(got.bytes == expected.bytes);
      CHECK(std::memcmp(got.data, expected.data, static_cast<std::size_t>(got.bytes)) == 0);
      ++compared;
    }
  }
  // Golden data from elsewhere may have one container a folder; ours has both.
  if (!std::getenv("BLACKMAMBA_TEST_DATA")) CHECK(compared > 0);
}

TEST_CASE("files: every golden file opens, and every configuration reads back from what is written of it") {
  int opened = 0, read = 0;
  for (auto const& entry : std::filesystem::recursive_directory_iterator{test::data_folder()}) {
    INFO(entry.path());
    auto const name = entry.path().filename().string();
    if (name.ends_with(".safetensors")) {
      CHECK(!io::TensorFile::open(entry.path()).tensors().empty());
      ++opened;
    } else if (name == "config.json") {
      auto const config = io::read_config(entry.path().parent_path());
      CHECK(io::parse_config(io::to_json(config), "again") == config);
      ++read;
    }
  }
  CHECK(opened > 0);
  CHECK(read > 0);
}
