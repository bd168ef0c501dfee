#include <blackmamba/io/safetensors_writer.hpp>

#include <csignal>

#include <sys/resource.h>

#include "io/files.hpp"

using namespace blackmamba;

namespace {

/// Random bytes of every element type, and their tensors.
struct Everything {
  std::vector<std::string> bytes;
  std::vector<io::TensorToWrite> tensors;

  Everything() {
    std::uint32_t state = 1;
    for (io::DType const dtype : io::all_dtypes) {
      std::string& data = bytes.emplace_back(static_cast<std::size_t>(6 * io::size_of(dtype)), '\0');
      for (char& c : data)
        c = static_cast<char>(dtype == io::DType::boolean ? (state = state * 1664525 + 1013904223) >> 31
                                                          : (state = state * 1664525 + 1013904223) >> 24);
    }
    for (std::size_t i = 0; i < bytes.size(); ++i)
      tensors.push_back(
          {std::string{io::to_string(io::all_dtypes[i])}, io::all_dtypes[i], {2, 3}, std::as_bytes(std::span{bytes[i]})});
  }
};

/// The message of a write that must fail; "written" if it does not.
std::string failure(std::filesystem::path const& path, std::vector<io::TensorToWrite> const& tensors) {
  try {
    io::write_safetensors(path, tensors);
  } catch (file_error const& e) {
    return e.what();
  }
  return "written";
}

}  // namespace

TEST_CASE("writer: every element type comes back bit for bit, aligned for its type") {
  test::Folder const folder;
  Everything const everything;
  io::write_safetensors(folder / "x.safetensors", everything.tensors, {{"format", "pt"}, {"made \"by\"", "a test\n"}});
  auto const file = io::TensorFile::open(folder / "x.safetensors");
  REQUIRE(file.tensors().size() == everything.tensors.size());
  for (auto const& expected : everything.tensors) {
    INFO(expected.name);
    auto const& got = file.info(expected.name);
    CHECK(got.dtype == expected.dtype);
    CHECK(got.shape == expected.shape);
    CHECK(std::memcmp(got.data, expected.bytes.data(), expected.bytes.size()) == 0);
    CHECK(reinterpret_cast<std::uintptr_t>(got.data) % static_cast<std::uintptr_t>(io::size_of(got.dtype)) == 0);
  }
  auto const header = test::content(folder / "x.safetensors").substr(0, 8);
  CHECK(header[0] % 8 == 0);
  CHECK(folder.names() == std::vector<std::string>{"x.safetensors"});
}

TEST_CASE_TEMPLATE("writer: a tensor of the library is read back as it was", T, float, double, half, bf16, Token, Index) {
  test::Folder const folder;
  Tensor<T, 3> tensor{Shape<3>{2, 1, 3}};
  for (Index i = 0; i < 6; ++i) tensor.data()[i] = static_cast<T>(static_cast<accumulator_t<T>>(i - 2));
  Tensor<T, 1> none{Shape<1>{0}};
  io::TensorToWrite const tensors[]{io::to_write("some", tensor.view()), io::to_write("none", none.view())};
  io::write_safetensors(folder / "x.safetensors", tensors);
  auto const back = io::TensorFile::open(folder / "x.safetensors").read<T, 3>("some");
  CHECK(back.shape() == tensor.shape());
  for (Index i = 0; i < 6; ++i) CHECK(back.data()[i] == tensor.data()[i]);
  CHECK(io::TensorFile::open(folder / "x.safetensors").read<T, 1>("none").size() == 0);
}

TEST_CASE("writer: a file of no tensors is a file") {
  test::Folder const folder;
  io::write_safetensors(folder / "x.safetensors", {});
  CHECK(io::TensorFile::open(folder / "x.safetensors").tensors().empty());
}

TEST_CASE("writer: a disk that fills up leaves the old file and nothing else") {
  test::Folder const folder;
  auto const path = folder / "x.safetensors";
  Tensor<float, 1> small{Shape<1>{4}}, large{Shape<1>{Index{1} << 20}};
  REQUIRE(failure(path, {io::to_write("a", small.view())}) == "written");
  std::string const before = test::content(path);

  // A limit on the size of files fails a write as a full disk does, half-way through.
  rlimit old{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &old) == 0);
  auto const handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit const limit{.rlim_cur = 1 << 16, .rlim_max = old.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  std::string const message = failure(path, {io::to_write("a", large.view())});
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &old) == 0);
  std::signal(SIGXFSZ, handler);

  CHECK(message == concat(path.string(), ": cannot be written: File too large"));
  CHECK(test::content(path) == before);
  CHECK(folder.names() == std::vector<std::string>{"x.safetensors"});
}

TEST_CASE("writer: folders and targets that cannot be written are named, and nothing is left") {
  test::Folder const folder;
  Tensor<float, 1> small{Shape<1>{4}};
  std::vector<io::TensorToWrite> const tensors{io::to_write("a", small.view())};
  CHECK(failure(folder / "no/x.safetensors", tensors) ==
        concat((folder / "no/x.safetensors").string(), ": cannot be created: No such file or directory"));
  CHECK(failure(folder.path(), tensors) == concat(folder.path().string(), ": is not a regular file"));
  CHECK(failure("/dev/full", tensors) == "/dev/full: is not a regular file");
  CHECK_SAYS(failure("/proc/x.safetensors", tensors), "/proc/x.safetensors: cannot be created: ");
  CHECK(std::filesystem::is_character_file("/dev/full"));
  CHECK(folder.names().empty());
}

TEST_CASE("writer: tensors that contradict themselves or each other are refused before a file is made") {
  test::Folder const folder;
  Tensor<float, 2> tensor{Shape<2>{2, 2}};
  auto const good = io::to_write("a", tensor.view());
  auto wrong = good;
  wrong.shape = {2, 3};
  auto const write = [&](std::vector<io::TensorToWrite> const& tensors, std::map<std::string, std::string> const& metadata = {}) {
    io::write_safetensors(folder / "x.safetensors", tensors, metadata);
  };
  CHECK_THROWS_WITH_AS(write({wrong}), "write_safetensors: tensor 'a' of F32 and shape (2, 3) comes with 16 bytes", value_error);
  CHECK_THROWS_WITH_AS(write({good, good}), "write_safetensors: tensor 'a' is there twice", value_error);
  CHECK_THROWS_AS(write({io::to_write("__metadata__", tensor.view())}), value_error);
  CHECK_THROWS_WITH_AS(write({good}, {{"k", "\xff"}}), "write_safetensors: a name or the metadata is not UTF-8", value_error);
  CHECK_THROWS_AS(io::to_write("a", tensor.view().transposed(0, 1)), shape_error);
  CHECK(folder.names().empty());
}
