// Which device is current, on a machine whose GPUs are not there: what PyTorch's C++ asks of a CUDA driver before any
// operation is dispatched, and in autograd.

#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

constexpr DeviceIndex GPUS = 2;
thread_local DeviceIndex current = 0;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device getDevice() const override { return {DeviceType::CUDA, current}; }
  void uncheckedSetDevice(Device device) const noexcept override { current = device.index(); }
  void setDevice(Device device) const override {
    TORCH_CHECK(device.index() >= 0 && device.index() < GPUS, "expected one of ", int(GPUS), " GPUs, got ", device);
    current = device.index();
  }
  Device exchangeDevice(Device device) const override {
    Device before = getDevice();
    setDevice(device);
    return before;
  }
  Stream getStream(Device device) const override { return Stream(Stream::DEFAULT, device); }
  Stream getDefaultStream(Device device) const override { return Stream(Stream::DEFAULT, device); }
  Stream exchangeStream(Stream stream) const override { return Stream(Stream::DEFAULT, stream.device()); }
  DeviceIndex deviceCount() const noexcept override { return GPUS; }
  void record(void**, const Stream&, DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};

}  // namespace

extern "C" int current_device() { return current; }

// Makes `index` the current device of this thread, unless it is negative; returns the one before.
extern "C" int exchange_device(int index) {
  int before = current;
  current = index < 0 ? before : index;
  return before;
}

extern "C" void install() { c10::impl::registerDeviceGuard(DeviceType::CUDA, new Guard()); }
