/* Of NimBLE-Arduino 2.5: what firmware/boards/esp32 calls. The stack's callbacks come from a thread of their own. */
#ifndef NIMBLE_DEVICE_H
#define NIMBLE_DEVICE_H
#include <stddef.h>
#include <stdint.h>

#include <string>
#include <vector>

enum { BLE_HS_CONN_HANDLE_NONE = 0xFFFF, BLE_ATT_ATTR_MAX_LEN = 512 };
enum NIMBLE_PROPERTY { WRITE = 8, WRITE_NR = 4, NOTIFY = 16 };

class NimBLEConnInfo
{
  public:
    uint16_t getConnHandle() const { return 1; }
    uint16_t getMTU() const { return 23; }
};

class NimBLEAttValue
{
  public:
    NimBLEAttValue(const uint8_t *p, uint16_t n) : bytes_(p, p + n) {}
    const uint8_t *data() const { return bytes_.data(); }
    uint16_t size() const { return (uint16_t)bytes_.size(); }

  private:
    std::vector<uint8_t> bytes_;
};

class NimBLECharacteristic;
class NimBLECharacteristicCallbacks
{
  public:
    virtual ~NimBLECharacteristicCallbacks() {}
    virtual void onWrite(NimBLECharacteristic *, NimBLEConnInfo &) {}
    virtual void onSubscribe(NimBLECharacteristic *, NimBLEConnInfo &, uint16_t) {}
};

class NimBLECharacteristic
{
  public:
    void setCallbacks(NimBLECharacteristicCallbacks *c) { callbacks = c; }
    NimBLEAttValue getValue() const { return NimBLEAttValue(value.data(), (uint16_t)value.size()); }
    bool notify(const uint8_t *p, size_t n, uint16_t connection = BLE_HS_CONN_HANDLE_NONE) const;

    NimBLECharacteristicCallbacks *callbacks = nullptr;
    std::vector<uint8_t> value;
    uint32_t properties = 0;
    bool subscribed = false;
};

class NimBLEService
{
  public:
    NimBLECharacteristic *createCharacteristic(const char *uuid, uint32_t properties, uint16_t max_len = 512);
};

class NimBLEServer;
class NimBLEServerCallbacks
{
  public:
    virtual ~NimBLEServerCallbacks() {}
    virtual void onConnect(NimBLEServer *, NimBLEConnInfo &) {}
    virtual void onDisconnect(NimBLEServer *, NimBLEConnInfo &, int) {}
    virtual void onMTUChange(uint16_t, NimBLEConnInfo &) {}
};

class NimBLEServer
{
  public:
    void setCallbacks(NimBLEServerCallbacks *, bool remove = true);
    NimBLEService *createService(const char *uuid);
    void start();
    void setDataLen(uint16_t, uint16_t) const {}
};

class NimBLEAdvertising
{
  public:
    bool addServiceUUID(const char *uuid);
    void enableScanResponse(bool);
    bool setName(const std::string &);
    bool start();
};

class NimBLEDevice
{
  public:
    static bool init(const std::string &name);
    static bool setMTU(uint16_t);
    static NimBLEServer *createServer();
    static NimBLEAdvertising *getAdvertising();
    static bool startAdvertising();
};
#endif
