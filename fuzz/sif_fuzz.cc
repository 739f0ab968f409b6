// The SIF reader, image detection, and the writer opening somebody else's image.
#include <cstdint>
#include <string>

#include <sys/mman.h>

#include <unistd.h>

#include "fuzz/target.h"
#include "policy/image/image.h"
#include "policy/sif/reader.h"
#include "policy/sif/writer.h"
#include "protocol/base/unique_fd.h"

namespace {

using postern::UniqueFd;
namespace sif = postern::sif;

void require(bool holds) {
  if (!holds) {
    __builtin_trap();
  }
}

void walk(int fd, const sif::Image& image) {
  for (const sif::Descriptor& d : image.descriptors()) {
    if (const auto extent = image.extent_of(d)) {
      require(extent->bytes <= image.file_bytes() &&
              extent->offset <= image.file_bytes() - extent->bytes);
    }
    if (const auto bytes = sif::read_object(fd, image, d, 1 << 16)) {
      require(bytes->size() == static_cast<std::size_t>(d.size));
    }
    require(d.name.size() <= sif::kNameBytes);
    require((d.group & sif::kGroupMask) == 0 && (d.link & sif::kGroupMask) == 0);
    (void)image.object(d.id);
  }
  (void)image.primary_partition();
  for (const std::uint32_t group : image.groups()) {
    require(!image.group(group).empty());
  }
}

// Whatever image the writer accepts, it leaves one that reads: as before without finish(), and with
// it as the writer said.
void change(int fd) {
  auto writer = sif::Writer::open("/proc/self/fd/" + std::to_string(fd));
  if (!writer) {
    return;
  }
  const std::size_t before = sif::read(fd)->descriptors().size();
  const auto id = writer->add({.name = "fuzz"}, "data");
  if (id) {
    const auto image = writer->image();
    require(image.has_value());
    const auto added = image->object(*id);
    if (added) {  // another object may have claimed the same id
      require(*sif::read_object(fd, *image, **added, 16) == "data");
    }
  }
  for (const sif::Descriptor& d : writer->descriptors()) {
    (void)writer->set_primary(d.id);
    if (d.id % 2 == 0) {
      (void)writer->remove(d.id);
    }
  }
  require(sif::read(fd)->descriptors().size() == before);
  const std::size_t wanted = writer->descriptors().size();
  if (writer->finish()) {
    const auto after = sif::read(fd);
    require(after.has_value() && after->descriptors().size() == wanted);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const UniqueFd fd(::memfd_create("sif_fuzz", MFD_CLOEXEC));
  if (!fd.valid() || ::pwrite(fd.get(), data, size, 0) != static_cast<ssize_t>(size)) {
    return 0;
  }
  const auto info = postern::image::identify(fd.get());
  if (info && info->kind != postern::image::Kind::kDirectory) {
    require(info->extent.bytes <= size && info->extent.offset <= size - info->extent.bytes);
    require(info->encrypted || info->squashfs->bytes_used <= info->extent.bytes);
  }
  if (const auto image = sif::read(fd.get())) {
    walk(fd.get(), *image);
    change(fd.get());
  }
  return 0;
}
