#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <sys/stat.h>
#include <sys/wait.h>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include "policy/sif/reader.h"
#include "policy/sif/writer.h"
#include "tests/unit/fresh.h"
#include "tests/unit/in_child.h"
#include "tests/unit/sif_bytes.h"

namespace postern::sif {
namespace {

using sif_bytes::file_of;
using sif_bytes::le;
using sif_bytes::put;

const std::string kImages = POSTERN_TEST_DATA "/images/";

UniqueFd open_image(const std::string& name) {
  return UniqueFd(::open((kImages + name).c_str(), O_RDONLY | O_CLOEXEC));
}

std::string contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A directory of its own that is gone afterwards.
struct Scratch {
  Scratch() { REQUIRE(::mkdtemp(path.data()) != nullptr); }

  ~Scratch() { std::filesystem::remove_all(path); }

  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string path = "/tmp/postern-sif-XXXXXX";

  [[nodiscard]] std::string file(const std::string& name) const { return path + "/" + name; }

  [[nodiscard]] std::size_t entries() const {
    return std::size_t(std::distance(std::filesystem::directory_iterator(path), {}));
  }
};

std::string why(const Outcome<Image>& outcome) {
  return outcome ? "" : outcome.error().what;
}

ObjectInput partition_input(PartitionType type, Architecture arch = Architecture::kAmd64) {
  return {.type = DataType::kPartition,
          .name = "rootfs",
          .extra = PartitionInfo{.fs = FileSystem::kSquashfs, .type = type, .architecture = arch}};
}

// Opens, reads and closes.
Image image_at(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  auto image = read(Fresh(fd.get()));
  REQUIRE(image);
  return *std::move(image);
}

}  // namespace

TEST_SUITE("policy/sif reader") {
  TEST_CASE("a file put together byte by byte reads as it was meant") {
    const UniqueFd fd = file_of(sif_bytes::two_objects());
    const auto image = read(Fresh(fd.get()));
    REQUIRE(image);
    const Header& h = image->header();
    CHECK(h.launch == kLaunchScript);
    CHECK(h.architecture == Architecture::kAmd64);
    CHECK(uuid_text(h.id) == "01234567-89ab-cdef-0123-456789abcdef");
    CHECK(h.created == 1593475316);
    CHECK(h.free == 2);
    CHECK(h.total == 4);
    CHECK(h.data_offset == 32176);
    REQUIRE(image->descriptors().size() == 2);
    const Descriptor& d = image->descriptors()[0];
    CHECK(d.type == DataType::kDefinition);
    CHECK(d.id == 1);
    CHECK(d.group == 1);
    CHECK(d.raw_group == 0xF0000001);
    CHECK(d.link == 0);
    CHECK_FALSE(d.link_is_group);
    CHECK(d.offset == 32176);
    CHECK(d.size == 5);
    CHECK(d.created == 1593475316);
    CHECK(d.modified == 1593475317);
    CHECK(d.uid == 501);
    CHECK(d.gid == 20);
    CHECK(d.name == "recipe.def");
    CHECK(d.partition() == nullptr);
    CHECK(d.raw[kNameAt] == 'r');
    CHECK(*read_object(Fresh(fd.get()), *image, d, 5) == "hello");
    CHECK_FALSE(read_object(Fresh(fd.get()), *image, d, 4));

    const auto primary = image->primary_partition();
    REQUIRE(primary);
    CHECK((*primary)->id == 2);
    CHECK((*primary)->partition()->fs == FileSystem::kSquashfs);
    CHECK((*primary)->partition()->architecture == Architecture::kAmd64);
    CHECK(image->extent_of(**primary)->offset == 36864);
    CHECK(image->group(1).size() == 2);
    CHECK(image->group(0).empty());
    CHECK(image->groups() == std::vector<std::uint32_t>{1});
    CHECK(image->find(DataType::kDefinition, "recipe.def") == &d);
    CHECK_FALSE(image->object(0));
    CHECK_FALSE(image->object(3));
    CHECK(::lseek(fd.get(), 0, SEEK_CUR) == 0);  // pread only
  }

  TEST_CASE("links and groups follow the rule of the four top bits") {
    struct Row {
      std::uint32_t group, link, group_out, link_out;
      bool is_group;
    };

    for (const Row& row :
         {Row{0xF0000000, 0, 0, 0, false}, Row{0, 7, 0, 7, false},
          Row{0x50000003, 0xF0000002, 3, 2, true}, Row{0xF0000002, 0x70000002, 2, 2, false}}) {
      CAPTURE(row.group);
      std::string file = sif_bytes::header();
      sif_bytes::object(file, 0, 0x4007, 32176, 0, "", "", row.group, row.link);
      const auto image = read(Fresh(file_of(file).get()));
      REQUIRE(image);
      const Descriptor& d = image->descriptors().at(0);
      CHECK(d.group == row.group_out);
      CHECK(d.link == row.link_out);
      CHECK(d.link_is_group == row.is_group);
    }
  }

  TEST_CASE("a name may fill its field, hold NULs inside, and keep odd bytes") {
    std::string file = sif_bytes::header();
    sif_bytes::object(file, 0, 0x4007, 0, 0, std::string(128, 'n'), "");
    sif_bytes::object(file, 1, 0x4007, 0, 0, std::string("a\0b\n", 4), "");
    const auto image = read(Fresh(file_of(file).get()));
    REQUIRE(image);
    CHECK(image->descriptors()[0].name == std::string(128, 'n'));
    CHECK(image->descriptors()[1].name == std::string("a\0b\n", 4));
  }

  TEST_CASE("the extra area is decoded by data type, and odd values are kept") {
    std::string file = sif_bytes::header();
    sif_bytes::object(file, 0, 0x4005, 0, 0, "", le(2, 4) + std::string(20, '\x0b') + "ignored");
    sif_bytes::object(file, 1, 0x4008, 0, 0, "", le(2, 4) + le(0x200, 4));
    sif_bytes::object(file, 2, 0x400B, 0, 0, "", "sha256:00");
    sif_bytes::object(file, 3, 0x7777, 0, 0, "", "whatever");
    const auto image = read(Fresh(file_of(file).get()));
    REQUIRE(image);
    const auto& all = image->descriptors();
    CHECK(all[0].signature()->hash == HashType::kSha384);
    CHECK(all[0].signature()->fingerprint[19] == 0x0b);
    CHECK(all[1].message()->format == MessageFormat::kPem);
    CHECK(all[1].message()->type == MessageType::kRsaOaep);
    CHECK(std::get<OciInfo>(all[2].extra).digest == "sha256:00");
    CHECK(std::holds_alternative<std::monostate>(all[3].extra));
    CHECK(name_of(all[3].type) == "Unknown");
  }

  TEST_CASE("what cannot be an image is refused with its reason") {
    const std::string good = sif_bytes::two_objects();
    const auto changed = [&](std::size_t at, std::string_view bytes) {
      std::string file = good;
      put(file, at, bytes);
      return why(read(Fresh(file_of(file).get())));
    };
    CHECK(why(read(Fresh(file_of("").get()))).find("ends too early") != std::string::npos);
    CHECK(why(read(Fresh(file_of(good.substr(0, 127)).get()))).find("ends too early") !=
          std::string::npos);
    CHECK(why(read(Fresh(file_of(good.substr(0, 4096 + 4 * 585 - 1)).get())))
              .find("beyond the end") != std::string::npos);
    for (std::size_t at = 32; at < 42; ++at) {
      CAPTURE(at);
      CHECK(changed(at, "x").find("magic") != std::string::npos);
    }
    CHECK(changed(42, "02").find("version") != std::string::npos);
    CHECK(changed(44, "x").find("version") != std::string::npos);
    CHECK(changed(88, le(std::uint64_t(-1), 8)).find("-1 entries") != std::string::npos);
    CHECK(changed(88, le(1ULL << 62, 8)).find("entries") != std::string::npos);
    CHECK(changed(88, le(kMaxCapacity + 1, 8)).find("entries") != std::string::npos);
    CHECK(changed(88, le(5, 8)).find("smaller") != std::string::npos);
    CHECK(changed(104, le(0, 8)).find("smaller") != std::string::npos);
    CHECK(changed(104, le(std::uint64_t(-1), 8)).find("smaller") != std::string::npos);
    CHECK(changed(96, le(127, 8)).find("overlaps") != std::string::npos);
    CHECK(changed(96, le(std::uint64_t(-1), 8)).find("overlaps") != std::string::npos);
    CHECK(changed(96, le(INT64_MAX, 8)).find("beyond") != std::string::npos);
    CHECK(changed(96, le(good.size() - 100, 8)).find("beyond") != std::string::npos);

    const UniqueFd directory(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    CHECK(why(read(Fresh(directory.get()))).find("regular file") != std::string::npos);
  }

  TEST_CASE("numbers that nothing needs are not believed and do no harm") {
    for (const std::size_t at : {80U, 112U, 120U}) {
      for (const std::uint64_t value : {0ULL, ~0ULL, 1ULL << 63, 4ULL}) {
        CAPTURE(at);
        std::string file = sif_bytes::two_objects();
        put(file, at, le(value, 8));
        const auto image = read(Fresh(file_of(file).get()));
        REQUIRE(image);
        CHECK(image->descriptors().size() == 2);
      }
    }
  }

  TEST_CASE("an object outside the file is an error when it is used, not before") {
    for (const auto& [offset, size] :
         {std::pair<std::uint64_t, std::uint64_t>{std::uint64_t(-1), 1},
          {1, std::uint64_t(-1)},
          {40961, 0},
          {40960, 1},
          {INT64_MAX, INT64_MAX},
          {0, 40961}}) {
      CAPTURE(offset);
      std::string file = sif_bytes::two_objects();
      put(file, 4096 + 585 + 17, le(offset, 8));
      put(file, 4096 + 585 + 25, le(size, 8));
      const UniqueFd fd = file_of(file);
      const auto image = read(Fresh(fd.get()));
      REQUIRE(image);
      const Descriptor& d = **image->primary_partition();
      CHECK_FALSE(image->extent_of(d));
      CHECK_FALSE(read_object(Fresh(fd.get()), *image, d, UINT64_MAX));
    }
  }

  TEST_CASE("no primary partition, or two, is an error; so are two objects of one id") {
    std::string file = sif_bytes::two_objects();
    put(file, 4096 + 585 + 201 + 4, le(1, 4));
    CHECK(read(Fresh(file_of(file).get()))
              ->primary_partition()
              .error()
              .what.find("no root file system") != std::string::npos);
    sif_bytes::object(file, 2, 0x4004, 36864, 4096, "", sif_bytes::partition(1, 2, "02"));
    put(file, 4096 + 585 + 201 + 4, le(2, 4));
    CHECK(read(Fresh(file_of(file).get()))->primary_partition().error().what.find("several") !=
          std::string::npos);
    put(file, 4096 + 2 * 585 + 5, le(1, 4));
    CHECK(read(Fresh(file_of(file).get()))->object(1).error().what.find("several") !=
          std::string::npos);
  }

  TEST_CASE("every byte of header and table may be anything: an error or a sane image") {
    const std::string good = sif_bytes::two_objects();
    std::size_t read_well = 0;
    UniqueFd fd = file_of(good);
    const auto mutate = [&](std::size_t at) {
      for (const int flip : {0xff, 0x80, 0x01}) {
        const char byte = static_cast<char>(good[at] ^ flip);
        REQUIRE(::pwrite(fd.get(), &byte, 1, off_t(at)) == 1);
        const auto image = read(Fresh(fd.get()));
        if (image) {
          ++read_well;
          for (const Descriptor& d : image->descriptors()) {
            const auto extent = image->extent_of(d);
            CHECK((!extent || extent->offset + extent->bytes <= good.size()));
            (void)read_object(Fresh(fd.get()), *image, d, 1 << 20);
          }
          (void)image->primary_partition();
        }
        REQUIRE(::pwrite(fd.get(), &good[at], 1, off_t(at)) == 1);
      }
    };
    for (std::size_t at = 0; at < 128; ++at) {
      mutate(at);
    }
    for (std::size_t at = 4096; at < 4096 + 3 * 585; ++at) {
      mutate(at);
    }
    CHECK(read_well > 1000);
  }

  TEST_CASE("a sparse file that claims the largest table costs little") {
    std::string file = sif_bytes::header();
    put(file, 88, le(kMaxCapacity, 8));
    put(file, 104, le(kMaxCapacity * 585, 8));
    const UniqueFd fd = file_of(file);
    REQUIRE(::ftruncate(fd.get(), 1LL << 40) == 0);
    const auto image = read(Fresh(fd.get()));
    REQUIRE(image);
    CHECK(image->descriptors().empty());
  }
}

TEST_SUITE("policy/sif images of others") {
  TEST_CASE("busybox: five objects, squashfs primary for amd64, signed by one key") {
    const UniqueFd fd = open_image("busybox_amd64.sif");
    const auto image = read(Fresh(fd.get()));
    REQUIRE(image);
    CHECK(uuid_text(image->header().id) == "4f307b4c-58a8-4753-9c0f-21dceefed4a6");
    CHECK(image->descriptors().size() == 5);
    CHECK((*image->primary_partition())->id == 4);
    CHECK((*image->primary_partition())->name == "squashfs-275937245");
    const Descriptor* metadata = image->find(DataType::kGenericJson, "inspect-metadata.json");
    REQUIRE(metadata != nullptr);
    CHECK(read_object(Fresh(fd.get()), *image, *metadata, 1 << 20)->starts_with("{"));
    const Descriptor& signature = **image->object(5);
    CHECK(signature.group == 0);
    CHECK(signature.link == 1);
    CHECK(signature.link_is_group);
    CHECK(signature.signature()->hash == HashType::kSha256);
    CHECK(signature.signature()->fingerprint[0] == 0x11);
  }

  TEST_CASE("empty, unsigned, and the three legacy forms") {
    CHECK(read(Fresh(open_image("empty.sif").get()))->descriptors().empty());
    const auto plain = read(Fresh(open_image("one-group.sif").get()));
    CHECK(plain->descriptors().size() == 2);
    CHECK(plain->descriptors()[0].partition()->fs == FileSystem::kRaw);
    CHECK(plain->descriptors()[1].name == ".");
    const auto legacy = read(Fresh(open_image("one-group-signed-legacy.sif").get()));
    CHECK_FALSE(legacy->descriptors()[2].link_is_group);
    CHECK(legacy->descriptors()[2].group == 1);
    const auto dsse = read(Fresh(open_image("one-group-signed-dsse.sif").get()));
    CHECK(dsse->header().created == kNoTime);
    CHECK(dsse->header().launch.empty());
  }
}

TEST_SUITE("policy/sif writer") {
  TEST_CASE("a new image has the default layout, mode and size, and appears only when finished") {
    const Scratch dir;
    const ::mode_t before = ::umask(022);
    auto w = Writer::create(dir.file("a.sif"), {});
    REQUIRE(w);
    CHECK(dir.entries() == 0);
    REQUIRE(w->finish());
    ::umask(before);
    CHECK(dir.entries() == 1);
    struct stat status{};
    REQUIRE(::stat(dir.file("a.sif").c_str(), &status) == 0);
    CHECK(status.st_size == 32176);
    CHECK((status.st_mode & 0777) == 0755);
    const Image image = image_at(dir.file("a.sif"));
    CHECK(image.header().launch == kLaunchScript);
    CHECK(image.header().architecture == Architecture::kUnknown);
    CHECK(image.header().total == 48);
    CHECK(image.header().free == 48);
    CHECK(image.header().table_offset == 4096);
    CHECK(image.header().table_bytes == 28080);
    CHECK(image.header().data_offset == 32176);
    CHECK(image.header().data_bytes == 0);
    CHECK((image.header().id[6] >> 4) == 4);
  }

  TEST_CASE("objects are placed as the format says, and read back") {
    const Scratch dir;
    auto w = Writer::create(dir.file("a.sif"), {});
    REQUIRE(w);
    CHECK(*w->add({.type = DataType::kDefinition, .name = "recipe"}, "hello") == 1);
    CHECK(*w->add(partition_input(PartitionType::kPrimarySystem), std::string(5000, 'p')) == 2);
    CHECK(*w->add({.type = DataType::kSignature,
                   .group = 0,
                   .link = 1,
                   .link_is_group = true,
                   .extra = SignatureInfo{.hash = HashType::kSha256, .fingerprint = {1, 2}}},
                  "sig") == 3);
    REQUIRE(w->finish());
    const UniqueFd fd(::open(dir.file("a.sif").c_str(), O_RDONLY | O_CLOEXEC));
    const auto image = read(Fresh(fd.get()));
    REQUIRE(image);
    const auto& all = image->descriptors();
    REQUIRE(all.size() == 3);
    CHECK(all[0].offset == 32176);
    CHECK(all[1].offset == 32768);
    CHECK(all[1].padded_size == 32768 - 32181 + 5000);
    CHECK(all[2].offset == 37768);
    CHECK(all[2].raw_group == 0xF0000000);
    CHECK(all[2].raw_link == 0xF0000001);
    CHECK(all[2].signature()->fingerprint[1] == 2);
    CHECK(image->header().architecture == Architecture::kAmd64);
    CHECK(image->header().free == 45);
    CHECK(image->header().data_bytes == 37771 - 32176);
    CHECK(image->file_bytes() == 37771);
    CHECK(*read_object(Fresh(fd.get()), *image, all[0], 100) == "hello");
    CHECK(*read_object(Fresh(fd.get()), *image, all[2], 100) == "sig");
  }

  TEST_CASE("adding to an image of another implementation leaves all its bytes but the header's") {
    const Scratch dir;
    const std::string path = dir.file("a.sif");
    std::filesystem::copy_file(kImages + "one-group.sif", path);
    const std::string before = contents(path);
    {
      auto w = Writer::open(path);
      REQUIRE(w);
      CHECK(*w->add({.type = DataType::kGenericJson, .name = "x"}, "{}") == 3);
      REQUIRE(w->finish());
    }
    const std::string after = contents(path);
    CHECK(after.substr(128, 4096 + 2 * 585 - 128) == before.substr(128, 4096 + 2 * 585 - 128));
    CHECK(after.substr(32176, before.size() - 32176) == before.substr(32176));
    const Image image = image_at(path);
    CHECK((*image.object(3))->offset == std::int64_t(before.size()));
    CHECK(image.header().created == 1590175859);
    CHECK(image.header().modified > 1590175859);
  }

  TEST_CASE("deleting frees the slot and moves nothing; the slot and the end are used again") {
    const Scratch dir;
    const std::string path = dir.file("a.sif");
    {
      auto w = Writer::create(path, {});
      REQUIRE(w->add({.name = "one"}, "1111"));
      REQUIRE(w->add({.name = "two"}, "2222"));
      REQUIRE(w->add(partition_input(PartitionType::kPrimarySystem), "3333"));
      REQUIRE(w->finish());
    }
    {
      auto w = Writer::open(path);
      REQUIRE(w->remove(1));
      CHECK_FALSE(w->remove(1));
      CHECK_FALSE(w->remove(0));
      REQUIRE(w->remove(3));
      REQUIRE(w->finish());
    }
    Image image = image_at(path);
    REQUIRE(image.descriptors().size() == 1);
    CHECK(image.descriptors()[0].id == 2);
    CHECK(image.header().free == 47);
    CHECK(image.header().architecture == Architecture::kUnknown);
    CHECK(contents(path).substr(4096, 585) == std::string(585, '\0'));
    {
      auto w = Writer::open(path);
      CHECK(*w->add({.name = "again"}, "44") == 1);
      REQUIRE(w->finish());
    }
    image = image_at(path);
    CHECK((*image.object(1))->offset ==
          32176 + 8);  // after the last used object; no hole is filled
    CHECK(image.file_bytes() == 32176 + 10);
  }

  TEST_CASE("a free count that lies is put right by the next change") {
    const Scratch dir;
    for (const std::uint64_t lie :
         {std::uint64_t{INT64_MAX}, std::uint64_t{1} << 63, std::uint64_t{4}}) {
      std::string file = sif_bytes::two_objects();
      put(file, 80, le(lie, 8));
      std::ofstream(dir.file("a.sif"), std::ios::binary) << file;
      {
        auto w = Writer::open(dir.file("a.sif"));
        REQUIRE(w);
        REQUIRE(w->add({.name = "x"}, "x"));
        REQUIRE(w->finish());
      }
      CHECK(image_at(dir.file("a.sif")).header().free == 1);
      {
        auto w = Writer::open(dir.file("a.sif"));
        REQUIRE(w->remove(1));
        REQUIRE(w->finish());
      }
      CHECK(image_at(dir.file("a.sif")).header().free == 2);
    }
  }

  TEST_CASE(
      "changes take effect at once, in finish(); without it the file is byte for byte as before") {
    const Scratch dir;
    const std::string path = dir.file("a.sif");
    std::filesystem::copy_file(kImages + "one-group.sif", path);
    const std::string before = contents(path);
    {
      auto w = Writer::open(path);
      REQUIRE(w->add({.name = "x"}, "some bytes"));
      REQUIRE(w->remove(1));
      const auto image = w->image();
      REQUIRE(image);
      CHECK(image->descriptors().size() == 2);
      CHECK(image->object(3).has_value());
      CHECK(image_at(path).descriptors().size() == 2);
      CHECK(image_at(path).object(1).has_value());
    }
    CHECK(contents(path) == before);
    {
      auto w = Writer::open(path);
      REQUIRE(w->remove(1));
      REQUIRE(w->add({.name = "x"}, "some bytes"));
      REQUIRE(w->finish());
      CHECK((*image_at(path).object(1))->name == "x");  // the slot is used again
      REQUIRE(w->remove(2));                            // and on, up to the next finish()
      CHECK(image_at(path).object(2).has_value());
      REQUIRE(w->finish());
    }
    CHECK(image_at(path).descriptors().size() == 1);
    CHECK(image_at(path).header().table_offset == 4096);
  }

  TEST_CASE("an image whose change was interrupted, with its table behind the data, is whole") {
    const Scratch dir;
    const std::string path = dir.file("a.sif");
    std::filesystem::copy_file(kImages + "one-group.sif", path);
    const Image before = image_at(path);
    std::string bytes = contents(path);
    const std::string table = bytes.substr(4096, 48 * 585);
    bytes.resize((bytes.size() + 4095) / 4096 * 4096);
    put(bytes, 96, le(bytes.size(), 8));
    bytes += table;
    bytes.replace(4096, 700, std::string(700, '\x7f'));  // the old place, half written
    std::ofstream(path, std::ios::binary) << bytes;
    CHECK(image_at(path).descriptors().size() == before.descriptors().size());
    {
      auto w = Writer::open(path);
      REQUIRE(w);
      REQUIRE(w->add({.name = "x"}, "x"));
      REQUIRE(w->finish());
    }
    CHECK(image_at(path).header().table_offset == 4096);
    CHECK(image_at(path).descriptors().size() == before.descriptors().size() + 1);
    CHECK((*image_at(path).object(1))->raw == before.descriptors()[0].raw);
  }

  TEST_CASE("another partition becomes primary") {
    const Scratch dir;
    const std::string path = dir.file("a.sif");
    auto w = Writer::create(path, {});
    REQUIRE(w->add(partition_input(PartitionType::kPrimarySystem), "aaaa"));
    REQUIRE(w->add(partition_input(PartitionType::kSystem, Architecture::kArm64), "bbbb"));
    REQUIRE(w->add(partition_input(PartitionType::kOverlay), "cccc"));
    REQUIRE(w->add({.name = "json"}, "{}"));
    REQUIRE(w->finish());
    auto change = Writer::open(path);
    REQUIRE(change);
    CHECK(change->set_primary(3).error().what.find("not a system partition") != std::string::npos);
    CHECK(change->set_primary(4).error().what.find("not a partition") != std::string::npos);
    CHECK(change->set_primary(9).error().what.find("no object 9") != std::string::npos);
    REQUIRE(change->set_primary(2));
    REQUIRE(change->finish());
    const Image image = image_at(path);
    CHECK((*image.primary_partition())->id == 2);
    CHECK((*image.object(1))->partition()->type == PartitionType::kSystem);
    CHECK(image.header().architecture == Architecture::kArm64);
  }

  TEST_CASE("what the format cannot hold is refused and changes nothing") {
    const Scratch dir;
    CHECK_FALSE(Writer::create(dir.file("a"), {.launch = std::string(32, 'x')}));
    CHECK_FALSE(Writer::create(dir.file("a"), {.capacity = 0}));
    CHECK_FALSE(Writer::create(dir.file("a"), {.capacity = kMaxCapacity + 1}));
    CHECK_FALSE(Writer::create(dir.file("missing/a"), {}));
    CHECK_FALSE(Writer::create(dir.file(""), {}));
    auto w = Writer::create(dir.file("a.sif"), {.capacity = 2});
    REQUIRE(w);
    CHECK_FALSE(w->add({.name = std::string(129, 'n')}, ""));
    CHECK_FALSE(w->add({.group = 0x10000000}, ""));
    CHECK_FALSE(w->add({.link = 0x10000000}, ""));
    CHECK_FALSE(w->add({.type = DataType::kPartition}, ""));
    CHECK_FALSE(w->add({.type = DataType::kGenericJson, .extra = PartitionInfo{}}, ""));
    CHECK_FALSE(w->add({.alignment = INT64_MAX}, std::string(1, 'x')).has_value());
    REQUIRE(w->add(partition_input(PartitionType::kPrimarySystem), "a"));
    CHECK(
        w->add(partition_input(PartitionType::kPrimarySystem), "a").error().what.find("already") !=
        std::string::npos);
    REQUIRE(w->add({.name = std::string(128, 'n')}, "b"));
    CHECK(w->add({}, "c").error().what.find("no free descriptor") != std::string::npos);
    REQUIRE(w->finish());
    CHECK(image_at(dir.file("a.sif")).descriptors().size() == 2);
  }

  TEST_CASE("an image with overlapping objects is read but not changed") {
    const Scratch dir;
    std::string file = sif_bytes::two_objects();
    SUBCASE("each other") {
      put(file, 4096 + 17, le(36864, 8));
    }
    SUBCASE("the table") {
      put(file, 4096 + 17, le(4096, 8));
    }
    SUBCASE("data area in the table") {
      put(file, 112, le(4096, 8));
    }
    SUBCASE("data area beyond the file") {
      put(file, 112, le(1ULL << 40, 8));
    }
    CHECK(read(Fresh(file_of(file).get())));
    std::ofstream(dir.file("a.sif"), std::ios::binary) << file;
    const auto w = Writer::open(dir.file("a.sif"));
    REQUIRE_FALSE(w);
    CHECK(w.error().what.find("cannot be changed") != std::string::npos);
    CHECK(contents(dir.file("a.sif")) == file);
  }

  TEST_CASE("deterministic images are the same bytes each time, and stay without times") {
    const Scratch dir;
    for (const char* name : {"a.sif", "b.sif"}) {
      auto w = Writer::create(dir.file(name), {.deterministic = true});
      REQUIRE(w->add({.name = "x"}, "data"));
      REQUIRE(w->finish());
    }
    CHECK(contents(dir.file("a.sif")) == contents(dir.file("b.sif")));
    auto w = Writer::open(dir.file("a.sif"));
    REQUIRE(w->add({.name = "y"}, "more"));
    REQUIRE(w->finish());
    const Image image = image_at(dir.file("a.sif"));
    CHECK(image.header().modified == kNoTime);
    CHECK(image.descriptors()[1].created == kNoTime);
  }

  TEST_CASE("data is streamed from a pipe, and a producer may write it itself") {
    const Scratch dir;
    auto w = Writer::create(dir.file("a.sif"), {});
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    REQUIRE(::write(ends[1], "through a pipe", 14) == 14);
    ::close(ends[1]);
    REQUIRE(w->add({.name = "pipe"}, ends[0]));
    ::close(ends[0]);
    const auto offset = w->begin(partition_input(PartitionType::kPrimarySystem));
    REQUIRE(offset);
    REQUIRE(::pwrite(w->fd(), "direct", 6, off_t(*offset)) == 6);
    CHECK(*w->end(4096) == 2);  // the tail is a hole
    REQUIRE(w->finish());
    const UniqueFd fd(::open(dir.file("a.sif").c_str(), O_RDONLY | O_CLOEXEC));
    const auto image = read(Fresh(fd.get()));
    CHECK(*read_object(Fresh(fd.get()), *image, **image->object(1), 100) == "through a pipe");
    CHECK(read_object(Fresh(fd.get()), *image, **image->object(2), 4096)->substr(0, 7) ==
          std::string("direct\0", 7));
  }

  TEST_CASE("one process at a time changes an image") {
    const Scratch dir;
    auto w = Writer::create(dir.file("a.sif"), {});
    REQUIRE(w->finish());
    auto first = Writer::open(dir.file("a.sif"));
    REQUIRE(first);
    const auto second = Writer::open(dir.file("a.sif"));
    REQUIRE_FALSE(second);
    CHECK(second.error().what.find("in use") != std::string::npos);
  }

  TEST_CASE("killed in the middle, a replacement leaves the old file and nothing beside it") {
    const Scratch dir;
    const std::string path = dir.file("a.sif");
    std::ofstream(path) << "precious";
    const int status = in_child([&] {
      auto w = Writer::create(path, {});
      (void)w->add({.name = "x"}, std::string(100000, 'x'));
      ::raise(SIGKILL);
      return 0;
    });
    CHECK(WTERMSIG(status) == SIGKILL);
    CHECK(contents(path) == "precious");
    CHECK(dir.entries() == 1);
  }

  TEST_CASE("an addition that was cut off before the end leaves the image as it was") {
    const Scratch dir;
    const std::string path = dir.file("a.sif");
    std::filesystem::copy_file(kImages + "one-group.sif", path);
    const std::string before = contents(path);
    const int status = in_child([&] {
      auto w = Writer::open(path);
      const auto offset = w->begin({.name = "x"});
      (void)!::pwrite(w->fd(), "half", 4, off_t(*offset));
      ::raise(SIGKILL);
      return 0;
    });
    CHECK(WTERMSIG(status) == SIGKILL);
    CHECK(contents(path).substr(0, before.size()) == before);
    CHECK(image_at(path).descriptors().size() == 2);
    CHECK(Writer::open(path));  // the lock died with its owner
  }
}

}  // namespace postern::sif
