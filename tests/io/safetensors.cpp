#include <blackmamba/io/safetensors.hpp>

#include "io/files.hpp"

using namespace blackmamba;
using test::open_bytes;
using test::refusal;
using test::safetensors;

namespace {

std::string entry(std::string const& name, std::string const& dtype, std::string const& shape, std::string const& offsets) {
  return concat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape, ",\"data_offsets\":", offsets, "}");
}
std::string refused(std::string const& header, std::string const& data = "") {
  return refusal(safetensors(header, data), "x.safetensors");
}

/// Two tensors and metadata: the smallest file with everything in it.
std::string small_file() {
  return safetensors(
      "{\"__metadata__\":{\"format\":\"pt\"}," + entry("a", "F32", "[2]", "[0,8]") + "," + entry("b", "I16", "[1,3]", "[8,14]") +
          "}  ",
      test::le(1.5f) + test::le(-2.0f) + test::le<std::int16_t>(1) + test::le<std::int16_t>(-2) + test::le<std::int16_t>(300));
}

}  // namespace

TEST_CASE("safetensors: tensors, numbers and empty tensors are read in the order of their bytes") {
  auto const opened = open_bytes(small_file(), "x.safetensors");
  CHECK(opened.file.names() == std::vector<std::string>{"a", "b"});
  auto const a = opened.file.read<double, 1>("a");
  CHECK(a(0) == 1.5);
  CHECK(a(1) == -2.0);
  auto const b = opened.file.read<Index, 2>("b");
  CHECK(b(0, 2) == 300);
  CHECK(opened.file.info("b").strides == std::vector<Index>{3, 1});

  auto const odd = open_bytes(
      safetensors("{" + entry("z", "F64", "[]", "[0,8]") + "," + entry("none", "F32", "[0,7]", "[8,8]") + "}", test::le(2.5)),
      "x.safetensors");
  CHECK(odd.file.read<float, 1>("z")(0) == 2.5f);
  CHECK(odd.file.read<float, 2>("none").shape() == Shape<2>{0, 7});
  CHECK(open_bytes(safetensors("{}", ""), "x.safetensors").file.tensors().empty());
}

TEST_CASE("safetensors: data at an odd address are read as any others") {
  auto const opened =
      open_bytes(safetensors("{" + entry("c", "U8", "[1]", "[0,1]") + "," + entry("d", "F64", "[9]", "[1,73]") + "}",
                             "x" + std::string(64, '\0') + test::le(3.25)),
                 "x.safetensors");
  CHECK(opened.file.read<double, 1>("d")(8) == 3.25);
  CHECK(opened.file.read<bf16, 1>("d")(8) == 3.25f);
}

TEST_CASE("safetensors: a file cut off at any length is refused") {
  std::string const whole = small_file();
  REQUIRE(refusal(whole, "x.safetensors") == "accepted");
  for (std::size_t length = 0; length < whole.size(); ++length) {
    INFO(length);
    CHECK_SAYS(refusal(whole.substr(0, length), "x.safetensors"), "x.safetensors: ");
  }
  CHECK_SAYS(refusal(whole + "!", "x.safetensors"), "has 1 bytes after its last tensor");
}

TEST_CASE("safetensors: a header of impossible length is refused before it is read") {
  CHECK_SAYS(refusal(test::le(~std::uint64_t{0}) + "{}", "x.safetensors"),
             "would have 18446744073709551615 bytes, more than the 100000000");
  CHECK_SAYS(refusal(test::le<std::uint64_t>(100) + "{}", "x.safetensors"), "its header has 100 bytes, but only 2 follow");
  CHECK_SAYS(refusal(test::le<std::uint64_t>(0), "x.safetensors"), "does not begin with '{'");
  CHECK_SAYS(refused(" {}"), "does not begin with '{'");
}

TEST_CASE("safetensors: a header that is no such header is refused with the tensor and the value") {
  std::string const four = "1234";
  CHECK_SAYS(refused("{\"a\":"), "the header is not JSON");
  CHECK_SAYS(refused("{} {}"), "the header is not JSON");
  CHECK_SAYS(refused("{\"a\xff\":1}"), "the header is not JSON");
  CHECK_SAYS(refused("{\"a\":1}"), "tensor 'a' is described by 1, not by an object");
  CHECK_SAYS(refused("{\"a\":{}}"), "tensor 'a' has no dtype");
  CHECK_SAYS(refused("{" + entry("a", "F31", "[1]", "[0,4]") + "}", four),
             "tensor 'a' has dtype 'F31', which is not one that can be read");
  CHECK_SAYS(refused("{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", four), "has dtype 7");
  CHECK_SAYS(refused("{" + entry("a", "F32", "1", "[0,4]") + "}", four), "has 1 as its shape, not a list");
  CHECK_SAYS(refused("{" + entry("a", "F32", "[-1]", "[0,4]") + "}", four), "has extent -1, not a whole number");
  CHECK_SAYS(refused("{" + entry("a", "F32", "[1.0]", "[0,4]") + "}", four), "has extent 1.0, not a whole number");
  CHECK_SAYS(refused("{" + entry("a", "F32", "[NaN]", "[0,4]") + "}", four), "the header is not JSON");
  CHECK_SAYS(refused("{" + entry("a", "F32", "[1e999]", "[0,4]") + "}", four), "holds a number that no double can");
  CHECK_SAYS(refused("{" + entry("a", "F32", "[18446744073709551616]", "[0,4]") + "}", four), "not a whole number");
  CHECK_SAYS(refused("{" + entry("a", "F32", "[9223372036854775808]", "[0,4]") + "}", four), "not a whole number");
  CHECK_SAYS(refused("{" + entry("a", "F32", "[4294967296,4294967296]", "[0,4]") + "}", four), "of more than 2^63 - 1 bytes");
  CHECK_SAYS(refused("{" + entry("a", "F32", "[0,4294967296,4294967296]", "[0,0]") + "}"), "of more than 2^63 - 1 bytes");
  CHECK_SAYS(refused("{" + entry("a", "F32", "[2]", "[0,4]") + "}", four),
             "of F32 and shape (2,) takes 8 bytes, but its data_offsets 0 to 4 hold 4");
  CHECK_SAYS(refused("{" + entry("a", "F32", "[1]", "[0]") + "}", four), "data_offsets that are not two whole numbers");
  CHECK_SAYS(refused("{" + entry("a", "F32", "[1]", "[4,0]") + "}", four), "ends at byte 0, before it begins at byte 4");
  CHECK_SAYS(refused("{\"__metadata__\":{\"a\":1}}"), "__metadata__ maps 'a' to 1, not to text");
  CHECK_SAYS(refused("{\"__metadata__\":3}"), "__metadata__ is 3, not an object");
  CHECK_SAYS(refused("{\"__metadata__\":{\"a\":\"x\",\"a\":\"x\"}}"), "names 'a' twice");
}

TEST_CASE("safetensors: ranges that overlap, leave holes or leave the file are refused") {
  std::string const eight = "12345678";
  CHECK_SAYS(refused("{" + entry("a", "F32", "[1]", "[0,4]") + "," + entry("b", "F32", "[1]", "[2,6]") + "}", eight),
             "tensor 'b' begins at byte 2 and overlaps 'a', which ends at byte 4");
  CHECK_SAYS(refused("{" + entry("a", "F32", "[1]", "[0,4]") + "," + entry("b", "F32", "[1]", "[0,4]") + "}", eight),
             "overlaps 'a'");
  CHECK_SAYS(refused("{" + entry("a", "U8", "[1]", "[0,1]") + "," + entry("b", "F32", "[1]", "[4,8]") + "}", eight),
             "tensor 'b' begins at byte 4 and leaves a hole after byte 1");
  CHECK_SAYS(refused("{" + entry("a", "F32", "[1]", "[4,8]") + "}", eight), "leaves a hole after byte 0");
  CHECK_SAYS(refused("{" + entry("a", "F32", "[3]", "[0,12]") + "}", eight), "tensor 'a' ends at byte 12 of the data, which has 8");
  CHECK_SAYS(refused("{" + entry("a", "U8", "[9223372036854775807]", "[0,9223372036854775807]") + "}", eight),
             "ends at byte 9223372036854775807");
  CHECK_SAYS(refused("{" + entry("a", "F32", "[1]", "[0,4]") + "," + entry("a", "F32", "[1]", "[4,8]") + "}", eight),
             "names 'a' twice");
}

TEST_CASE("safetensors: nesting and numbers of values are bounded") {
  CHECK_SAYS(refused("{\"a\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}"), "nests deeper than 8 levels");
  std::string many = "{\"a\":[0";
  for (int i = 0; i < (1 << 22); ++i) many += ",0";
  CHECK_SAYS(refused(many + "]}"), "holds more than 4194304 values");
}

TEST_CASE("safetensors: long and unprintable names are shown cut and cleaned") {
  CHECK_SAYS(refused("{\"" + std::string(5000, 'n') + "\":1}"), std::string(120, 'n') + "…' is described");
  CHECK_SAYS(refused("{\"\\u001b[31m\":1}"), "tensor '?[31m' is described");
}

TEST_CASE("tensor file: a tensor that is not there or has another shape is named with what there is") {
  auto const opened = open_bytes(small_file(), "x.safetensors");
  CHECK_THROWS_WITH_AS(opened.file.info("c"), "x.safetensors: has no tensor 'c'; the closest are 'a', 'b'", file_error);
  CHECK_THROWS_WITH_AS((opened.file.read<float, 2>("a")), "x.safetensors: tensor 'a' has shape (2,), where 2 dimensions are needed",
                       file_error);
  Tensor<float, 2> out{Shape<2>{3, 1}};
  CHECK_THROWS_WITH_AS(opened.file.read_into("b", out.view()), "x.safetensors: tensor 'b' has shape (1, 3), where (3, 1) is needed",
                       file_error);
  CHECK_THROWS_WITH_AS((opened.file.read<Index, 1>("a")), "x.safetensors: tensor 'a': elements of F32 are not integers",
                       file_error);
}

TEST_CASE("tensor file: reading into strided memory gives what reading into contiguous memory gives") {
  auto const opened = open_bytes(small_file(), "x.safetensors");
  Tensor<float, 2> wide{Shape<2>{3, 4}};
  opened.file.read_into("b", View<float, 2>{wide}.transposed(0, 1).slice(0, 2, 1));
  CHECK(wide(0, 2) == 1);
  CHECK(wide(1, 2) == -2);
  CHECK(wide(2, 2) == 300);
  CHECK(wide(2, 1) == 0);
}

TEST_CASE("tensor file: a path is a file, an index or a folder, and the message says what was looked for") {
  test::Folder const folder;
  CHECK_THROWS_WITH_AS(
      io::TensorFile::open(folder.path()),
      concat(folder.path().string(), ": holds none of model.safetensors.index.json, model.safetensors, pytorch_model.bin").c_str(),
      file_error);
  CHECK_THROWS_WITH_AS(io::TensorFile::open(folder / "no.safetensors"),
                       concat((folder / "no.safetensors").string(), ": cannot be opened: No such file or directory").c_str(),
                       file_error);
  folder.write("empty.safetensors", "");
  CHECK_THROWS_WITH_AS(io::TensorFile::open(folder / "empty.safetensors"),
                       concat((folder / "empty.safetensors").string(), ": is empty").c_str(), file_error);
  CHECK_THROWS_AS(io::MappedFile{folder.path()}, file_error);
  CHECK_THROWS_AS(io::MappedFile{"/dev/zero"}, file_error);
  folder.write("model.safetensors", small_file());
  auto const file = io::TensorFile::open(folder.path());
  CHECK(file.path() == folder / "model.safetensors");
  auto const copy = file;
  CHECK(copy.read<float, 1>("a")(1) == -2.0f);
}

TEST_CASE("tensor file: shards are read through their index, and only what it maps") {
  test::Folder const folder;
  auto const one = safetensors("{" + entry("a", "F32", "[1]", "[0,4]") + "}", test::le(1.0f));
  auto const two = safetensors("{" + entry("b", "F32", "[1]", "[0,4]") + "}", test::le(2.0f));
  folder.write("one.safetensors", one);
  folder.write("two.safetensors", two);
  auto const open_index = [&](std::string const& map) -> std::string {
    folder.write("model.safetensors.index.json", "{\"metadata\":{\"total_size\":8},\"weight_map\":" + map + "}");
    try {
      auto const file = io::TensorFile::open(folder.path());
      return concat(file.read<float, 1>("a")(0), " ", file.read<float, 1>("b")(0));
    } catch (file_error const& e) {
      return e.what();
    }
  };
  CHECK(open_index("{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}") == "1 2");
  CHECK_SAYS(open_index("{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}"),
             "maps tensor 'b' to one.safetensors, which does not hold it");
  CHECK_SAYS(open_index("{\"a\":\"one.safetensors\",\"b\":\"three.safetensors\"}"), "three.safetensors: cannot be opened");
  CHECK_SAYS(open_index("{\"b\":\"../two.safetensors\"}"), "which is not the name of a .safetensors file in the same folder");
  CHECK_SAYS(open_index("{\"b\":\"/etc/passwd\"}"), "maps tensor 'b' to '/etc/passwd', which is not");
  CHECK_SAYS(open_index("{\"b\":\"two.safetensors\\u0000\"}"), "which is not the name");
  CHECK_SAYS(open_index("{\"b\":3}"), "maps tensor 'b' to 3, not to a file name");
  CHECK_SAYS(open_index("[]"), "has no object \"weight_map\"");
  CHECK_SAYS(open_index("{\"a\":\"one.safetensors\",\"a\":\"two.safetensors\"}"), "names 'a' twice");
  folder.write(
      "two.safetensors",
      safetensors("{" + entry("b", "F32", "[1]", "[0,4]") + "," + entry("c", "F32", "[0]", "[4,4]") + "}", test::le(2.0f)));
  CHECK_SAYS(open_index("{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}"),
             "two.safetensors: holds tensor 'c', which model.safetensors.index.json does not map to it");
  folder.write("two.safetensors", one);
  CHECK_SAYS(open_index("{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}"), "tensor 'a' is there a second time");
}
