#include "frontend/plan/image_file.h"

#include <string>

#include <doctest/doctest.h>
#include <stdlib.h>
#include <unistd.h>

using postern::plan::open_data_image;
using postern::plan::open_image;

namespace {

const std::string kImages = POSTERN_TEST_DATA "/images/";

}  // namespace

TEST_SUITE("frontend/plan image files") {
  TEST_CASE("a SIF is opened at its root partition, a path counts from the given directory") {
    const auto image = open_image("busybox_amd64.sif", kImages);
    REQUIRE(image);
    CHECK(image->path == kImages + "busybox_amd64.sif");
    CHECK((image->sif && !image->directory && !image->encrypted));
    REQUIRE(image->root);
    CHECK(image->root->offset >= 32768);
    CHECK(image->root->bytes > 0);
    CHECK(image->root->offset % 4096 == 0);
    CHECK_FALSE(image->root->verity);
    CHECK(image->root->image.get() > 2);
  }

  TEST_CASE("a directory needs no server") {
    const auto image = open_image(".", "/usr");
    REQUIRE(image);
    CHECK((image->directory && !image->root && image->path == "/usr"));
  }

  TEST_CASE("what is no image is said, with the cure") {
    struct Row {
      std::string given;
      const char* what;
      const char* cure;
    };

    for (const Row& row :
         {Row{"/nonexistent.sif", "/nonexistent.sif: No such file", "check the path"},
          Row{"/dev/null", "neither a file nor a directory", ""},
          Row{"/etc/passwd/x.sif", "Not a directory", "check the path"},
          Row{"docker://alpine", "docker://alpine", "postern pull docker://alpine"},
          Row{"oci-archive:/x.tar", "oci-archive:/x.tar", "postern pull oci-archive:/x.tar"},
          Row{"instance://x", "instance://x is an instance", "postern exec"},
          Row{kImages + "empty.sif", "empty.sif", ""},
          Row{kImages + "README.md", "README.md", "postern build"}}) {
      CAPTURE(row.given);
      const auto image = open_image(row.given, "/");
      REQUIRE_FALSE(image);
      CHECK(image.error().what.find(row.what) != std::string::npos);
      CHECK(image.error().cure.find(row.cure) != std::string::npos);
      CHECK(image.error().exit_code == 255);
    }
  }

  TEST_CASE("a file that is named like a URI is a file") {
    char name[] = "/tmp/postern-unit-XXXXXX";
    const std::string directory = ::mkdtemp(name);
    REQUIRE(::symlink((kImages + "busybox_amd64.sif").c_str(), (directory + "/docker:x").c_str()) ==
            0);
    CHECK(open_image("docker:x", directory));
    CHECK(::unlink((directory + "/docker:x").c_str()) == 0);
    CHECK(::rmdir(directory.c_str()) == 0);
  }

  TEST_CASE("a data image is the one data partition, or the object that is named") {
    const auto none = open_data_image(kImages + "busybox_amd64.sif", std::nullopt);
    REQUIRE_FALSE(none);
    CHECK(none.error().what.find("0 data partitions") != std::string::npos);
    CHECK(none.error().cure.find("id=N") != std::string::npos);
    const auto image = open_image(kImages + "busybox_amd64.sif", "/");
    REQUIRE(image);
    bool found = false;
    for (std::uint32_t object = 1; object <= 4; ++object) {
      const auto data = open_data_image(kImages + "busybox_amd64.sif", object);
      found = found ||
              (data && data->offset == image->root->offset && data->bytes == image->root->bytes);
    }
    CHECK(found);
    CHECK_FALSE(open_data_image("/etc/hostname", std::nullopt));
    CHECK_FALSE(open_data_image("/usr", std::nullopt));
  }
}
