// Maps blocks of GPU memory until one fails, and checks that the host sees in each what the GPU wrote there. A test aid
// that shows how large a virtual machine's window for mapped memory is, and that mapping works at odd sizes.
//
//   map BLOCK_BYTES BLOCKS     prints "mapped N of BLOCKS blocks of BLOCK_BYTES bytes", and the result that ended it
//
// Takes the first device whose driver is Venus. Exit status: 0 unless a content is wrong or another call fails.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vulkan.h>

#define CHECK(call)                                                          \
    do {                                                                     \
        VkResult result = (call);                                            \
        if (result != VK_SUCCESS) {                                          \
            fprintf(stderr, "map: %s: VkResult %d\n", #call, (int)result);   \
            exit(1);                                                         \
        }                                                                    \
    } while (0)

static VkPhysicalDevice physical;
static VkDevice device;
static VkQueue queue;
static VkCommandBuffer commands;

static void choose_venus(VkInstance instance) {
    VkPhysicalDevice all[16];
    uint32_t count = 16;
    CHECK(vkEnumeratePhysicalDevices(instance, &count, all));
    for (uint32_t i = 0; i < count; i++) {
        VkPhysicalDeviceDriverProperties driver = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES};
        VkPhysicalDeviceProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &driver};
        vkGetPhysicalDeviceProperties2(all[i], &properties);
        if (driver.driverID == VK_DRIVER_ID_MESA_VENUS) physical = all[i];
    }
    if (physical == VK_NULL_HANDLE) {
        fprintf(stderr, "map: none of the %u devices is Venus's\n", count);
        exit(1);
    }
}

static void open_device(void) {
    VkApplicationInfo application = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_2};
    VkInstanceCreateInfo instance_info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &application};
    VkInstance instance;
    CHECK(vkCreateInstance(&instance_info, NULL, &instance));
    choose_venus(instance);
    // Family 0 will do: lavapipe has but one
    float priority = 1;
    VkDeviceQueueCreateInfo queue_info = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO, .queueCount = 1, .pQueuePriorities = &priority};
    VkDeviceCreateInfo device_info = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, .queueCreateInfoCount = 1, .pQueueCreateInfos = &queue_info};
    CHECK(vkCreateDevice(physical, &device_info, NULL, &device));
    vkGetDeviceQueue(device, 0, 0, &queue);
    VkCommandPoolCreateInfo pool_info = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO, .flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT};
    VkCommandPool pool;
    CHECK(vkCreateCommandPool(device, &pool_info, NULL, &pool));
    VkCommandBufferAllocateInfo allocate = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO, .commandPool = pool, .commandBufferCount = 1};
    CHECK(vkAllocateCommandBuffers(device, &allocate, &commands));
}

static uint32_t coherent_type(uint32_t allowed) {
    VkPhysicalDeviceMemoryProperties memory;
    vkGetPhysicalDeviceMemoryProperties(physical, &memory);
    VkMemoryPropertyFlags wanted = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    for (uint32_t i = 0; i < memory.memoryTypeCount; i++)
        if (allowed & 1u << i && (memory.memoryTypes[i].propertyFlags & wanted) == wanted) return i;
    fprintf(stderr, "map: no memory type can be mapped\n");
    exit(1);
}

static void fill(VkBuffer buffer, uint32_t value) {
    VkCommandBufferBeginInfo begin = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    CHECK(vkBeginCommandBuffer(commands, &begin));
    vkCmdFillBuffer(commands, buffer, 0, VK_WHOLE_SIZE, value);
    VkMemoryBarrier barrier = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER, .srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT, .dstAccessMask = VK_ACCESS_HOST_READ_BIT};
    vkCmdPipelineBarrier(commands, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &barrier, 0, NULL, 0, NULL);
    CHECK(vkEndCommandBuffer(commands));
    VkSubmitInfo submit = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO, .commandBufferCount = 1, .pCommandBuffers = &commands};
    CHECK(vkQueueSubmit(queue, 1, &submit, VK_NULL_HANDLE));
    CHECK(vkQueueWaitIdle(queue));
}

// Makes, maps and checks one block, which is then kept; the result of its mapping
static VkResult map_block(VkDeviceSize bytes, uint32_t value) {
    VkBufferCreateInfo info = {.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, .size = bytes, .usage = VK_BUFFER_USAGE_TRANSFER_DST_BIT};
    VkBuffer buffer;
    CHECK(vkCreateBuffer(device, &info, NULL, &buffer));
    VkMemoryRequirements needs;
    vkGetBufferMemoryRequirements(device, buffer, &needs);
    VkMemoryAllocateInfo allocate = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, .allocationSize = needs.size, .memoryTypeIndex = coherent_type(needs.memoryTypeBits)};
    VkDeviceMemory memory;
    CHECK(vkAllocateMemory(device, &allocate, NULL, &memory));
    CHECK(vkBindBufferMemory(device, buffer, memory, 0));
    void *mapped;
    VkResult result = vkMapMemory(device, memory, 0, VK_WHOLE_SIZE, 0, &mapped);
    if (result != VK_SUCCESS) return result;
    fill(buffer, value);
    for (VkDeviceSize i = 0; i < bytes / 4; i++)
        if (((volatile uint32_t *)mapped)[i] != value) {
            fprintf(stderr, "map: block %u, word %llu: %x\n", value, (unsigned long long)i, ((volatile uint32_t *)mapped)[i]);
            exit(1);
        }
    return VK_SUCCESS;
}

int main(int count, char **words) {
    if (count != 3) return fprintf(stderr, "usage: map BLOCK_BYTES BLOCKS\n"), 2;
    VkDeviceSize bytes = (VkDeviceSize)atoll(words[1]) / 4 * 4;
    uint32_t blocks = (uint32_t)atoll(words[2]), mapped = 0;
    VkResult result = VK_SUCCESS;
    open_device();
    while (mapped < blocks && (result = map_block(bytes, mapped + 1)) == VK_SUCCESS) mapped++;
    printf("mapped %u of %u blocks of %llu bytes%s\n", mapped, blocks, (unsigned long long)bytes,
           result == VK_SUCCESS ? "" : result == VK_ERROR_OUT_OF_DEVICE_MEMORY ? ", then VK_ERROR_OUT_OF_DEVICE_MEMORY"
                                                                             : ", then another error");
    return 0;
}
